// Draws each chart with Vega when it comes into view, as wide as the page; until then, and without scripts, its still drawing stands.
"use strict";
(() => {
  let embed;
  const drawn = new Map();

  async function unpack() {
    const packed = Uint8Array.from(atob(document.getElementById("vega").textContent), c => c.charCodeAt(0));
    const text = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
    new Function(text)();
    return window.vegaEmbed;
  }

  // The reader's choices are signals of the charts that know them, and what a page's own script makes of them.
  function choose(view) {
    const known = Object.keys(view.getState().signals);
    for (const [name, value] of Object.entries({ ...document.body.dataset, ...window.chartSignals })) {
      if (known.includes(name)) view.signal(name, value);
    }
    return view.runAsync();
  }

  async function draw(holder) {
    if (drawn.has(holder)) return;
    drawn.set(holder, null);
    embed ??= unpack();
    const library = await embed;
    const spec = JSON.parse(holder.closest("figure").querySelector("script").textContent);
    const { view } = await library(holder, spec, { actions: false, renderer: "svg", tooltip: { theme: "page" } });
    drawn.set(holder, view);
    await choose(view);
    holder.dataset.chart = "drawn";
  }

  addEventListener("choice", () => { for (const view of drawn.values()) if (view) choose(view); });
  const seen = new IntersectionObserver(entries => {
    for (const entry of entries) if (entry.isIntersecting && entry.boundingClientRect.width) draw(entry.target);
  });
  for (const holder of document.querySelectorAll("[data-chart]")) seen.observe(holder);
})();
