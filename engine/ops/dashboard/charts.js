// The charts of lag and throughput, drawn by uPlot from /history.
/* global uPlot */

const HEIGHT = 170;
const REFRESH_SECONDS = 5;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const clock = (seconds) =>
  new Date(1000 * seconds).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });

function options(width, label, line) {
  const axis = () => ({
    stroke: () => colour("--dim"),
    grid: { stroke: () => colour("--line"), width: 1 },
    ticks: { stroke: () => colour("--line"), width: 1 },
  });
  return {
    width,
    height: HEIGHT,
    legend: { live: label.length > 1 },
    cursor: { y: false },
    scales: { y: { range: (_, __, most) => [0, most > 0 ? most * 1.1 : 1] } },
    axes: [{ ...axis(), values: (_, times) => times.map(clock) }, { ...axis(), size: 60 }],
    series: [
      {},
      ...label.map((name, number) => ({
        label: name,
        stroke: () => colour(line[number]),
        width: 2,
        spanGaps: false,
      })),
    ],
  };
}

export class Charts {
  #boxes;
  #ask;
  #plots = [];
  #series = 0;
  #history = null;

  constructor(lag, rate, ranges, ask) {
    this.#boxes = [lag, rate];
    this.#ask = ask;
    ranges.addEventListener("click", (event) => {
      const chosen = event.target.closest("button");
      if (!chosen) return;
      this.#series = Number(chosen.dataset.series);
      for (const button of ranges.querySelectorAll("button")) {
        button.setAttribute("aria-pressed", String(button === chosen));
      }
      this.#draw();
    });
    new ResizeObserver(() => this.#resize()).observe(lag);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  /** Read the history again and again. */
  async start() {
    for (;;) {
      try {
        const response = await this.#ask("history");
        if (response.ok) {
          this.#history = await response.json();
          this.#draw();
        }
      } catch {
        // The page says that the engine does not answer.
      }
      await new Promise((done) => setTimeout(done, 1000 * REFRESH_SECONDS));
    }
  }

  #resize() {
    this.#plots.forEach((plot, number) => {
      plot.setSize({ width: this.#boxes[number].clientWidth, height: HEIGHT });
    });
  }

  #draw() {
    const series = this.#history?.series[this.#series];
    if (!series) return;
    const times = series.lag_seconds.map((_, slot) => series.start + slot * series.step_seconds);
    const drawn = [
      [["lag"], ["--busy"], [times, series.lag_seconds]],
      [
        ["stream", "backfill"],
        ["--fine", "--busy"],
        [times, series.rows_per_second, series.backfilled_rows_per_second],
      ],
    ];
    drawn.forEach(([labels, lines, data], number) => {
      const box = this.#boxes[number];
      if (this.#plots[number]) this.#plots[number].setData(data);
      else this.#plots[number] = new uPlot(options(box.clientWidth, labels, lines), data, box);
    });
  }
}
