"use strict";
// What a clock says at a time and a σ that the reader chooses: the same weights as stats.circle. Charts draw it from their signals.
(() => {
  const clock = JSON.parse(document.getElementById("clock").textContent);
  const time = document.getElementById("time");
  const sigma = document.getElementById("sigma");
  const compared = document.getElementById("compared");
  const each = (selector, change) => document.querySelectorAll(selector).forEach(change);
  const percent = (share) => `${Math.round(100 * share)}%`;

  const kernel = (at, hour, width) => {
    const gap = Math.min(Math.abs(at - hour), 24 - Math.abs(at - hour));
    return Math.exp(-0.5 * (gap / width) ** 2);
  };
  const windowAt = (hour, width) => clock.centers.map(
    (center) => clock.slot_hours * kernel(center, hour, width) / (width * Math.sqrt(2 * Math.PI)),
  );
  const blend = (shares, weights) => shares[0].map(
    (_, value) => weights.reduce((sum, weight, slot) => sum + weight * shares[slot][value], 0),
  );

  const named = (values, figures, smallest, text) => values.map((name, n) => [name, figures[n]])
    .filter(([name, figure]) => !clock.unnamed.includes(name) && figure >= smallest)
    .sort((a, b) => b[1] - a[1]).slice(0, clock.top_count).map(([name, figure]) => `${name}\u00a0${text(figure)}`).join(", ") || "nothing";
  const seen = (facet, weights) => named(facet.values, blend(facet.shares, weights), clock.smallest_weight, percent);

  function lifted(facet, weights) {
    const window = weights.map((weight) => weight * weights.length);
    const events = window.reduce((sum, weight, slot) => sum + weight * facet.events[slot], 0);
    const all = facet.events.reduce((sum, count) => sum + count, 0);
    const lifts = blend(facet.scores, window).map((score, value) => {
      const day = facet.scores.reduce((sum, slot) => sum + slot[value], 0) / all;
      return day > 0 ? (score + clock.prior * day) / (events + clock.prior) / day : 0;
    });
    return named(facet.values, lifts, clock.smallest_lift, (lift) => `×${lift.toFixed(1)}`);
  }

  function showItems(minutes) {
    if (!clock.items.length) return;
    const now = Math.floor(minutes * clock.items[0].length / 1440);
    const rows = [...document.querySelectorAll("[data-item]")].map((e) => e.closest("tr"));
    const score = (row) => clock.items[Number(row.querySelector("[data-item]").dataset.item)][now];
    rows.sort((a, b) => score(b) - score(a)).forEach((row) => {
      row.querySelector("[data-score]").textContent = score(row).toFixed(3);
      row.parentElement.append(row);
    });
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
    const steps = Array.from({ length: clock.curve_steps }, (_, n) => (n + 0.5) * 24 / clock.curve_steps);
    Object.assign(window.chartSignals, {
      minutes, sigma: width, emphasis: weights.map((weight) => weight / most), curve: steps.map((at) => kernel(at, minutes / 60, width)),
    });
    each("[data-compares]", (e) => { e.textContent = compared.selectedOptions[0].textContent; });
    const fill = (selector, text) => each(selector, (e, n) => { e.textContent = text(clock.facets[n]); });
    const slot = weights.map((_, n) => Number(n === Math.floor(minutes / 60 / clock.slot_hours)));
    fill("[data-seen]", (facet) => seen(facet, weights));
    fill("[data-module=naive_clock]", (facet) => seen(facet, slot));
    fill("[data-module=gaussian_clock]", (facet) => seen(facet, weights));
    fill("[data-module=matched_clock]", (facet) => lifted(facet, weights));
    showItems(minutes);
    document.querySelectorAll(".facet").forEach((card, n) => {
      const facet = clock.facets[n];
      const own = blend(facet.shares, weights);
      const other = compared && blend(facet.compared[Number(compared.value)], weights);
      card.querySelectorAll(".legend li").forEach((row, value) => {
        row.querySelector(".bar b").style.setProperty("--share", Math.min(own[value], 1));
        row.querySelector("data").value = own[value].toFixed(4);
        row.querySelector("data").textContent = percent(own[value]);
        if (other) row.querySelector(".bar i").style.setProperty("--share", Math.min(other[value], 1));
      });
    });
  }

  // The pointer turns the hand by moving the slider, and names the value that it is on.
  function turnTo(event) {
    const box = event.currentTarget.getBoundingClientRect();
    const x = event.clientX - box.left - box.width / 2;
    const y = event.clientY - box.top - box.height / 2;
    time.value = Math.round((Math.atan2(x, -y) / (2 * Math.PI) + 1) % 1 * 288) % 288 * 5;
    time.dispatchEvent(new Event("input"));
  }

  function highlight(dial, value) {
    window.chartSignals.highlight = { dial, value };
    dispatchEvent(new Event("choice"));
  }

  function alone(item) {
    window.chartSignals.chosen = item;
    dispatchEvent(new Event("choice"));
  }

  window.chartSignals = {};
  each(".scripted", (e) => { e.hidden = false; });
  each(".dial [data-chart]", (dial) => {
    dial.addEventListener("pointerdown", (event) => dial.setPointerCapture(event.pointerId));
    dial.addEventListener("pointermove", (event) => { if (dial.hasPointerCapture(event.pointerId)) turnTo(event); });
    dial.addEventListener("click", (event) => { turnTo(event); time.dispatchEvent(new Event("change")); });
  });
  document.querySelectorAll(".facet").forEach((card, number) => card.querySelectorAll(".legend li").forEach((row, value) => {
    row.addEventListener("pointerenter", () => highlight(number, clock.facets[number].values[value]));
    row.addEventListener("pointerleave", () => highlight(-1, ""));
  }));
  each("[data-item]", (e) => {
    e.closest("tr").addEventListener("pointerenter", () => alone(e.textContent));
    e.closest("tr").addEventListener("pointerleave", () => alone(""));
  });
  addEventListener("choice", show);
  show();
})();
