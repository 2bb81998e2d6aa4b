// Tables that sort, filter and copy; choices that tables and charts follow. The address keeps all of it, so that a view can be sent.
"use strict";
(() => {
  const state = new URLSearchParams(location.hash.slice(1));
  document.documentElement.classList.add("scripted");

  function remember(key, value, usual = "") {
    if (value === usual) state.delete(key); else state.set(key, value);
    const hash = state.toString();
    if (hash || location.hash) location.replace(`#${hash}`);
  }

  function make(tag, properties, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  const status = make("p", { className: "unseen", role: "status" });
  document.body.append(status);

  async function copy(text, button) {
    try {
      await navigator.clipboard.writeText(text);
    } catch { // no permission: in a frame, or an address without TLS
      const area = make("textarea", { value: text });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    status.textContent = "Copied.";
    button.classList.add("done");
    setTimeout(() => { button.classList.remove("done"); status.textContent = ""; }, 1500);
  }

  const shown = cell => getComputedStyle(cell).display !== "none";
  const say = cell => cell.textContent.trim().replace(/\s+/g, " ");

  // Headings and visible rows as texts; a column that is hidden by a choice is left out.
  function content(table) {
    const scale = document.body.dataset.scale || "relative";
    const kept = [...table.tHead.rows[0].cells].map(cell => !cell.dataset.scale || cell.dataset.scale === scale);
    const rows = [...table.tBodies[0].rows].filter(row => !row.matches(".group, .note") && shown(row));
    return [table.tHead.rows[0], ...rows].map(row => [...row.cells].filter((_, n) => kept[n]).map(cell => say(cell.querySelector("button") || cell)));
  }

  function markdown(element) {
    if (element.matches("h1, h2")) return `${element.matches("h1") ? "#" : "##"} ${say(element)}`;
    if (!element.matches("table")) return say(element);
    const lines = content(element).map(row => `| ${row.map(text => text.replaceAll("|", "\\|")).join(" | ")} |`);
    lines.splice(1, 0, `|${content(element)[0].map((_, n) => n ? " ---: |" : " --- |").join("")}`);
    return lines.join("\n");
  }

  function download(table) {
    const quote = text => /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    const text = content(table).map(row => row.map(quote).join(",")).join("\n") + "\n";
    const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: `${table.id}.csv` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  // A row with the note below it, which stay together.
  function blocks(table) {
    const groups = [[]];
    for (const row of table.tBodies[0].rows) {
      if (row.matches(".group")) groups.push([{ heading: row }]);
      else if (row.matches(".note")) groups.at(-1).at(-1).note = row;
      else groups.at(-1).push({ row });
    }
    return groups;
  }

  function compare(a, b) {
    if (a === b) return 0;
    if (a === "" || b === "") return a === "" ? 1 : -1; // what is unknown comes last, in either direction
    const numbers = Number(a) - Number(b);
    return Number.isNaN(numbers) ? a.localeCompare(b) : numbers;
  }

  function arrange(table, original) {
    const [column, direction] = (state.get(`${table.id}.sort`) || "").split(".");
    const number = [...table.tHead.rows[0].cells].findIndex(cell => cell.dataset.key === column);
    const value = each => each.row.cells[number].dataset.sort ?? say(each.row.cells[number]);
    for (const cell of table.tHead.rows[0].cells) {
      cell.ariaSort = number >= 0 && cell.dataset.key === column ? (direction === "down" ? "descending" : "ascending") : "none";
    }
    const rows = [];
    for (const group of original) {
      const sorted = group.filter(each => each.row);
      if (number >= 0) {
        sorted.sort((a, b) => {
          const [x, y] = [value(a), value(b)];
          return direction === "down" && x !== "" && y !== "" ? -compare(x, y) : compare(x, y);
        });
      }
      for (const each of [...group.filter(each => each.heading), ...sorted]) rows.push(each.heading || each.row, ...(each.note ? [each.note] : []));
    }
    table.tBodies[0].append(...rows);
    const text = (state.get(`${table.id}.filter`) || "").toLowerCase();
    let left = 0;
    for (const group of original) {
      let some = 0;
      for (const { row, note } of group.filter(each => each.row)) {
        const chosen = Object.entries(row.dataset).every(([key, own]) => !document.body.dataset[key] || document.body.dataset[key] === own);
        const visible = chosen && say(row).concat(" ", note ? say(note) : "").toLowerCase().includes(text);
        row.hidden = !visible;
        if (note) note.hidden = !visible;
        some += visible;
      }
      for (const { heading } of group.filter(each => each.heading)) heading.hidden = !some;
      left += some;
    }
    return left;
  }

  const tables = [];
  for (const table of document.querySelectorAll("table[data-interactive]")) {
    const original = blocks(table);
    const redraw = () => { status.textContent = `${arrange(table, original)} rows`; };
    const filter = make("input", { type: "search", value: state.get(`${table.id}.filter`) || "", placeholder: "Filter rows" });
    filter.setAttribute("aria-label", `Filter rows of ${table.id}`);
    filter.addEventListener("input", () => { remember(`${table.id}.filter`, filter.value); redraw(); });
    const order = make("select", { className: "narrow" }, make("option", { value: "", textContent: "Sort by" }));
    order.setAttribute("aria-label", `Sort ${table.id}`);
    const sortBy = value => { remember(`${table.id}.sort`, value); order.value = value; redraw(); };
    for (const cell of table.tHead.rows[0].cells) {
      if (!cell.textContent) continue;
      for (const [way, sign] of [["up", "↑"], ["down", "↓"]]) {
        order.append(make("option", { value: `${cell.dataset.key}.${way}`, textContent: `${cell.textContent} ${sign}` }));
      }
      const button = make("button", { type: "button", className: "sort", textContent: cell.textContent });
      button.addEventListener("click", () => {
        const now = state.get(`${table.id}.sort`) || "";
        const key = cell.dataset.key;
        sortBy(now === `${key}.down` ? `${key}.up` : now === `${key}.up` ? "" : `${key}.down`);
      });
      cell.replaceChildren(make("span", { textContent: cell.textContent }), button);
    }
    order.value = state.get(`${table.id}.sort`) || "";
    order.addEventListener("change", () => sortBy(order.value));
    const copies = make("button", { type: "button", textContent: "Copy as Markdown" });
    copies.addEventListener("click", () => copy(markdown(table), copies));
    const saves = make("button", { type: "button", textContent: "Download CSV" });
    saves.addEventListener("click", () => download(table));
    table.before(make("div", { className: "controls" }, filter, order, copies, saves));
    tables.push(redraw);
    redraw();
  }

  for (const choice of document.querySelectorAll("[data-choice]")) {
    const name = choice.dataset.choice;
    const usual = choice.value;
    const kept = state.get(name);
    if (kept && (choice.options ? [...choice.options].some(option => option.value === kept) : Number.isFinite(Number(kept)))) choice.value = kept;
    document.body.dataset[name] = choice.value;
    choice.addEventListener("input", () => {
      for (const other of document.querySelectorAll(`[data-choice="${name}"]`)) other.value = choice.value;
      document.body.dataset[name] = choice.value;
      if (document.querySelector(`tr[data-${name}]`)) for (const redraw of tables) redraw();
      dispatchEvent(new Event("choice"));
    });
    choice.addEventListener("change", () => remember(name, choice.value, usual)); // not while a slider is drawn
  }
  for (const redraw of tables) redraw();
  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.addEventListener("click", () => copy([...document.querySelectorAll(button.dataset.copy)].map(markdown).join("\n\n") + "\n", button));
  }
  for (const button of document.querySelectorAll("button[data-link]")) button.addEventListener("click", () => copy(location.href, button));
  addEventListener("beforeprint", () => { for (const fold of document.querySelectorAll("details")) fold.open = true; });
  status.textContent = "";
})();
