// Draws each chart with Vega when it comes into view, as wide as the page; until then, and without scripts, its still drawing stands.
"use strict";
(() => {
  let library;
  const views = new Map();
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true");
  document.body.append(tip);

  async function unpack() {
    const packed = Uint8Array.from(atob(document.getElementById("vega").textContent), c => c.charCodeAt(0));
    const text = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
    new Function(text)();
    return window.vega;
  }

  function showTip(handler, event, item, value) {
    tip.hidden = value == null;
    if (tip.hidden) return;
    const lines = typeof value === "object" ? Object.entries(value) : [["", String(value)]];
    tip.replaceChildren(...lines.map(([name, text]) => {
      const line = document.createElement("div");
      line.textContent = name ? `${name}: ${text}` : text;
      return line;
    }));
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, innerWidth - box.width - 4))}px`;
    tip.style.top = `${Math.max(4, Math.min(event.clientY + 12, innerHeight - box.height - 4))}px`;
  }

  function choose(view) {
    for (const [name, value] of Object.entries(document.body.dataset)) {
      try { view.signal(name, value); } catch { /* the chart has no such choice */ }
    }
  }

  async function draw(holder) {
    if (views.has(holder)) return;
    views.set(holder, null);
    library ??= unpack();
    const vega = await library;
    const spec = JSON.parse(holder.closest("figure").querySelector("script").textContent);
    const height = holder.getBoundingClientRect().height;
    const view = new vega.View(vega.parse(spec), { renderer: "svg", hover: true, tooltip: showTip });
    choose(view);
    holder.style.minHeight = `${Math.min(height, 200)}px`;
    holder.replaceChildren();
    await view.initialize(holder).runAsync();
    holder.style.minHeight = "";
    holder.dataset.chart = "drawn";
    views.set(holder, view);
  }

  addEventListener("choice", () => {
    for (const view of views.values()) if (view) { choose(view); view.runAsync(); }
  });
  const seen = new IntersectionObserver(entries => {
    for (const entry of entries) if (entry.isIntersecting && entry.boundingClientRect.width) draw(entry.target);
  });
  for (const holder of document.querySelectorAll("[data-chart]")) seen.observe(holder);
})();
