// The console works without this script: it refreshes, draws, and shows times in the browser's zone.
"use strict";

(() => {
  const pad = (number) => String(number).padStart(2, "0");

  const showTimes = (root) => {
    for (const time of root.querySelectorAll("time[datetime]")) {
      const at = new Date(time.getAttribute("datetime"));
      if (Number.isNaN(at.getTime())) continue;
      time.textContent =
        `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} ` +
        `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
    }
  };

  // Nothing moves under somebody's hands, and nothing is asked for that nobody sees.
  const isBusy = () =>
    document.hidden ||
    document.querySelector("#live input[type=checkbox]:checked") !== null ||
    (document.activeElement !== null && document.activeElement.matches("input:not([type=checkbox]), select, textarea"));

  const refresh = (live) => {
    setInterval(() => {
      const here = document.getElementById("live");
      if (here === null || isBusy() || document.querySelector("[data-continue]")) return;
      const address = location.pathname === "/runs/change" ? null : location.href;
      if (address !== null) {
        htmx.ajax("GET", address, { target: "#live", select: "#live", swap: "outerHTML" });
      }
    }, 1000 * Number(live.dataset.refresh));
  };

  const selectAll = (event) => {
    if (!event.target.matches("input[data-all]")) return;
    for (const box of document.querySelectorAll("input[name=run_ids]")) {
      box.checked = event.target.checked;
    }
  };

  const confirmFirst = (event) => {
    const text = event.submitter && event.submitter.dataset.confirm;
    if (text && !window.confirm(text)) event.preventDefault();
  };

  const goOn = (form) => {
    const timer = setTimeout(() => form.submit(), 1500);
    const stop = form.querySelector("[data-stop]");
    stop.hidden = false;
    stop.addEventListener("click", () => {
      clearTimeout(timer);
      stop.hidden = true;
    });
  };

  const colour = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const plot = async (place) => {
    const answer = await fetch(place.dataset.source, { headers: { accept: "application/json" } });
    if (!answer.ok) return;
    const { endings } = await answer.json();
    const least = 0.0005;
    const size = () => ({ width: place.clientWidth, height: Math.min(360, 0.6 * place.clientWidth + 80) });
    const text = (seconds) => (seconds < 1 ? `${+(seconds * 1000).toPrecision(3)} ms` : `${+seconds.toPrecision(3)} s`);
    const axis = { stroke: colour("--faint"), grid: { stroke: colour("--line") }, ticks: { stroke: colour("--line") } };
    const drawn = new uPlot(
      {
        ...size(),
        legend: { show: false },
        scales: { y: { distr: 3, log: 10 } },
        axes: [axis, { ...axis, size: 70, values: (_, ticks) => ticks.map((each) => (each === null ? "" : text(each))) }],
        series: [
          {},
          { paths: () => null, points: { show: true, size: 4, fill: colour("--accent"), stroke: colour("--accent") } },
        ],
      },
      [endings.map(([at]) => at), endings.map(([, late]) => Math.max(late, least))],
      place,
    );
    window.addEventListener("resize", () => drawn.setSize(size()));
  };

  document.addEventListener("DOMContentLoaded", () => {
    showTimes(document);
    document.addEventListener("change", selectAll);
    document.addEventListener("submit", confirmFirst);
    document.body.addEventListener("htmx:afterSwap", () => showTimes(document));
    // An error page is no list, and somebody may have begun while the answer was under way: what is there stays.
    document.body.addEventListener("htmx:beforeSwap", (event) => {
      if (event.detail.xhr.status !== 200 || isBusy()) event.detail.shouldSwap = false;
    });
    const live = document.querySelector("#live[data-refresh]");
    if (live !== null) refresh(live);
    const going = document.querySelector("form[data-continue]");
    if (going !== null) goOn(going);
    const place = document.getElementById("plot");
    if (place !== null && window.uPlot) plot(place);
  });
})();
