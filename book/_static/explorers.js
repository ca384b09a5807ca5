// Draws the page's explorers with the vendored Vega libraries, which only a page that has one loads.
(() => {
  const vendor = new URL("vendor/", document.currentScript.src).href;
  const libraries = ["vega-5.33.1/vega.min.js", "vega-lite-5.20.1/vega-lite.min.js", "vega-embed-6.29.0/vega-embed.min.js"];
  const refuse = () => Promise.reject(new Error("an explorer carries its data and fetches nothing"));
  const loader = { load: refuse, http: refuse, file: refuse, sanitize: (uri) => Promise.resolve({ href: uri }) };

  const load = (path) =>
    new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.onload = resolve;
      script.onerror = () => reject(new Error(`${path} is missing`));
      script.src = vendor + path;
      document.head.append(script);
    });

  // A single view follows its container. Vega-Lite has no such width for several views: on a phone those side by side
  // stack, and a stack of plain views takes the phone's width.
  function fit(whole, width) {
    const config = { ...whole.config, legend: { ...whole.config?.legend, ...(width < 640 && { columns: 2 }) } };
    const spec = { ...whole, config };
    const side = spec.hconcat || spec.concat;
    const stack = spec.vconcat?.some((view) => view.hconcat || view.facet || view.width) ? null : spec.vconcat;
    if ((side || stack) && width < 640) {
      const { hconcat, concat, ...rest } = spec;
      return { ...rest, vconcat: (side || stack).map((view) => ({ ...view, width: width - 80 })) };
    }
    if (side || spec.vconcat || spec.facet || spec.repeat) return spec;
    return { ...spec, width: "container", autosize: { type: "fit-x", contains: "padding" } };
  }

  async function draw(figure) {
    const spec = JSON.parse(figure.querySelector("script").textContent);
    const chart = figure.querySelector(".explorer-chart");
    const options = { renderer: "svg", actions: false, defaultStyle: false, loader };
    await vegaEmbed(chart, fit(spec, chart.clientWidth), options);
    // A label that holds its value would be read anew at each step: name the control by its words alone.
    for (const bind of chart.querySelectorAll(".vega-bind")) {
      const name = bind.querySelector(".vega-bind-name").textContent;
      for (const control of bind.querySelectorAll("input, select")) control.setAttribute("aria-label", name);
    }
    // Vega hears the window alone; a folded sidebar or an opened tab changes the width too.
    let width = chart.clientWidth;
    new ResizeObserver(() => {
      if (chart.clientWidth === width) return;
      width = chart.clientWidth;
      window.dispatchEvent(new Event("resize"));
    }).observe(chart);
  }

  async function main() {
    for (const path of libraries) await load(path);
    for (const figure of document.querySelectorAll("figure.explorer")) {
      try {
        await draw(figure);
      } catch (error) {
        figure.querySelector(".explorer-chart").textContent = `This figure could not be drawn: ${error.message}`;
        console.error(error);
      }
    }
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", main);
  else main();
})();
