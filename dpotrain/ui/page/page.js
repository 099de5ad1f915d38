"use strict";
(() => {
  const root = document.documentElement;
  const button = document.querySelector("button[data-switch]");
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const label = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.hidden = false;
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; label(); });
  label();

  const nearest = (points, x) => {
    let low = 0, high = points.length - 1;
    while (high - low > 1) { const middle = (low + high) >> 1; if (points[middle][0] < x) low = middle; else high = middle; }
    return Math.abs(points[low][0] - x) <= Math.abs(points[high][0] - x) ? points[low] : points[high];
  };
  for (const chart of document.querySelectorAll(".chart")) {
    const data = chart.querySelector("script"), area = chart.querySelector(".catch");
    if (!data || !area) continue;
    const curves = JSON.parse(data.textContent).filter((curve) => curve.points.length);
    const svg = chart.querySelector("svg"), cursor = chart.querySelector(".cursor"), line = cursor.firstElementChild;
    const tip = chart.appendChild(Object.assign(document.createElement("div"), { className: "tip", hidden: true }));
    const show = (event) => {
      const box = svg.getBoundingClientRect(), scale = box.width / 400, x = (event.clientX - box.left) / scale;
      const found = curves.map((curve) => [curve.name, nearest(curve.points, x)]);
      const at = found.map(([, point]) => point).reduce((a, b) => Math.abs(a[0] - x) <= Math.abs(b[0] - x) ? a : b);
      tip.replaceChildren(...found.map(([name, point]) => {
        const row = document.createElement("div");
        row.textContent = `${name}, step ${point[2]}: ${point[3]}`;
        return row;
      }));
      line.setAttribute("d", `M${at[0]} 10V210`);
      cursor.removeAttribute("hidden");
      tip.hidden = false;
      const outer = chart.getBoundingClientRect(), place = box.left - outer.left + at[0] * scale;
      tip.style.left = `${Math.max(0, Math.min(place + 10, outer.width - tip.offsetWidth - 4))}px`;
      tip.style.top = `${box.top - outer.top + 10 * scale}px`;
    };
    const hide = () => { cursor.setAttribute("hidden", ""); tip.hidden = true; };
    svg.addEventListener("pointermove", show);
    svg.addEventListener("pointerdown", show);
    svg.addEventListener("pointerleave", hide);
  }
})();
