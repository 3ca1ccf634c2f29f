// Draws every table that says data-chart; the table stays beside the chart, and is what there is without this script.
"use strict";
(() => {
  const DASHES = [[], [8, 4], [2, 4]];
  const COLOURS = ["--chart-1", "--chart-2", "--chart-3"];
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function read(table) {
    const names = [...table.tHead.rows[0].cells].slice(1).map(cell => cell.textContent.trim());
    const rows = [...table.tBodies[0].rows];
    const times = rows.map(row => Date.parse(row.querySelector("time").dateTime) / 1000);
    const columns = names.map((_, i) => rows.map(row => Number(row.cells[i + 1].dataset.value ?? row.cells[i + 1].textContent)));
    return { names, times, columns };
  }

  function shares(columns) {
    const sums = columns[0].map((_, row) => columns.reduce((sum, column) => sum + column[row], 0));
    return columns.map(column => column.map((value, row) => sums[row] ? 100 * value / sums[row] : null));
  }

  // Where nothing was said for longer than one step the line is broken, not drawn on.
  function broken(times, columns, step) {
    const at = [], values = columns.map(() => []);
    times.forEach((time, row) => {
      if (row && time - times[row - 1] > step) { at.push(time - step / 2); values.forEach(each => each.push(null)); }
      at.push(time);
      values.forEach((each, i) => each.push(columns[i][row]));
    });
    return [at, ...values];
  }

  function draw(table) {
    const share = table.dataset.chart === "share";
    const { names, times, columns } = read(table);
    const step = Number(table.dataset.gap || 86400);
    const data = broken(times, share ? shares(columns) : columns, step);
    const numbers = table.closest("details");
    const place = document.createElement("div");
    place.className = "chart";
    place.setAttribute("aria-hidden", "true");
    numbers.before(place);
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 } };
    const made = new uPlot({
      width: place.clientWidth || 300, height: 220,
      scales: { x: { range: (_, low, high) => [Math.min(low, high - 6 * step), high + step / 2] }, y: { range: share ? [0, 100] : (_, low, high) => [0, Math.max(high, 1)] } },
      axes: [{ ...axis, space: 70 }, { ...axis, size: 56, values: (_, ticks) => ticks.map(tick => share ? tick + " %" : tick) }],
      legend: { live: false },
      cursor: { show: false },
      series: [{}, ...names.map((label, i) => ({ label, stroke: colour(COLOURS[i % 3]), width: 2, dash: DASHES[i % 3], points: { show: times.length < 60, size: 5 } }))],
    }, data, place);
    for (const head of place.querySelectorAll("th")) head.scope = "row";
    new ResizeObserver(() => place.clientWidth && made.setSize({ width: place.clientWidth, height: 220 })).observe(place);
    numbers.open = false;
  }

  function drawAll(within) {
    for (const table of within.querySelectorAll("table[data-chart]")) {
      const numbers = table.closest("details");
      if (numbers.previousElementSibling?.classList.contains("chart")) continue;
      draw(table);
    }
  }
  drawAll(document);
  document.addEventListener("htmx:afterSettle", event => drawAll(event.target));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const chart of document.querySelectorAll(".chart")) chart.remove();
    drawAll(document);
  });
})();
