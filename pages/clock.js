"use strict";
// Turns the hand: the same weights as stats.circle, for a time and a σ that the reader chooses.
(() => {
  const clock = JSON.parse(document.getElementById("clock").textContent);
  const time = document.getElementById("time");
  const sigma = document.getElementById("sigma");
  const chosen = () => document.querySelector("[name=compared]:checked");
  const each = (selector, change) => document.querySelectorAll(selector).forEach(change);
  const percent = (share) => `${Math.round(100 * share)}%`;

  const windowAt = (hour, width) => clock.centers.map((center) => {
    const gap = Math.min(Math.abs(center - hour), 24 - Math.abs(center - hour));
    return clock.slot_hours * Math.exp(-0.5 * (gap / width) ** 2) / (width * Math.sqrt(2 * Math.PI));
  });
  const blend = (shares, weights) => shares[0].map(
    (_, value) => weights.reduce((sum, weight, slot) => sum + weight * shares[slot][value], 0),
  );

  function sentence(values, weights) {
    const order = weights.map((weight, n) => [values[n], weight]).filter(([name, w]) => !clock.unnamed.includes(name) && w >= clock.smallest)
      .sort((a, b) => b[1] - a[1]).slice(0, clock.top_count);
    return order.map(([name, weight]) => `${name} ${percent(weight)}`).join(", ") || "nothing";
  }

  function show() {
    const minutes = Number(time.value);
    const width = clock.sigmas[Number(sigma.value)];
    const moment = `${String(Math.floor(minutes / 60)).padStart(2, "0")}:${String(minutes % 60).padStart(2, "0")}`;
    const weights = windowAt(minutes / 60, width);
    const most = Math.max(...weights);
    time.setAttribute("aria-valuetext", moment);
    sigma.setAttribute("aria-valuetext", `${width} hours`);
    document.getElementById("width").textContent = `${width} h`;
    each("[data-moment]", (e) => { e.textContent = moment; });
    each("[data-sigma]", (e) => { e.textContent = width; });
    each(".hand", (e) => e.setAttribute("transform", `rotate(${minutes / 4})`));
    each(".window", (e) => e.setAttribute("d", clock.windows[Number(sigma.value)]));
    each("[data-slot]", (e) => {
      e.style.opacity = clock.faintest + (1 - clock.faintest) * weights[Number(e.dataset.slot)] / most;
    });
    each("[data-compared]", (e) => { e.style.display = e.dataset.compared === chosen()?.value ? "" : "none"; });
    each("[data-compares]", (e) => { e.textContent = chosen().parentElement.textContent.trim(); });
    const seen = document.querySelectorAll("[data-seen]");
    document.querySelectorAll(".facet").forEach((card, n) => {
      const facet = clock.facets[n];
      const own = blend(facet.shares, weights);
      const compared = chosen() && blend(facet.compared[Number(chosen().value)], weights);
      seen[n].textContent = sentence(facet.values, own);
      card.querySelectorAll(".legend li").forEach((row, value) => {
        row.querySelector(".bar b").style.setProperty("--share", Math.min(own[value], 1));
        row.querySelector("data").value = own[value].toFixed(4);
        row.querySelector("data").textContent = percent(own[value]);
        if (compared) row.querySelector(".bar i").style.setProperty("--share", Math.min(compared[value], 1));
      });
    });
  }

  function turnTo(event) {
    const box = event.currentTarget.closest("svg").getBoundingClientRect();
    const x = event.clientX - box.left - box.width / 2;
    const y = event.clientY - box.top - box.height / 2;
    const turned = (Math.atan2(x, -y) / (2 * Math.PI) + 1) % 1;
    time.value = Math.round(turned * 288) % 288 * 5;
    show();
  }

  document.body.classList.add("live");
  each(".scripted", (e) => { e.hidden = false; });
  time.addEventListener("input", show);
  sigma.addEventListener("input", show);
  each("[name=compared]", (e) => e.addEventListener("input", show));
  each("svg.dial", (dial) => dial.addEventListener("click", turnTo));
  each(".knob", (knob) => {
    knob.addEventListener("pointerdown", (event) => { event.preventDefault(); knob.setPointerCapture(event.pointerId); });
    knob.addEventListener("pointermove", (event) => { if (knob.hasPointerCapture(event.pointerId)) turnTo(event); });
  });
  show();
})();
