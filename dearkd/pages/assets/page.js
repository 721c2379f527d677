// Draws the page's figures under the template of the reader's mode, and again when that changes.
(() => {
  const { templates, figures } = JSON.parse(document.getElementById("page-data").textContent);
  const plots = [...document.querySelectorAll(".plot")];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paper = matchMedia("print");
  const config = { displaylogo: false, responsive: true, displayModeBar: false };
  const hidden = new Set();
  const copy = (value) => JSON.parse(JSON.stringify(value));

  function draw(element, printing) {
    const { data, layout } = copy(figures[element.dataset.figure]);
    const template = copy(templates[dark.matches && !printing ? "dark" : "light"]);
    const width = printing ? { width: element.clientWidth, autosize: false } : {};
    element.querySelector("noscript")?.remove();
    for (const trace of data) trace.visible = !hidden.has((trace.name ?? "").split(", a head")[0]);
    return Plotly.react(element, data, { ...layout, ...width, dragmode: false, template }, config);
  }

  const drawAll = (printing) => Promise.all(plots.map((element) => draw(element, printing)));
  const onScreen = () => drawAll(false);
  const onPaper = () => drawAll(true);

  for (const box of document.querySelectorAll(".legend input")) {
    box.addEventListener("change", () => {
      hidden[box.checked ? "delete" : "add"](box.dataset.name);
      for (const twin of document.querySelectorAll(".legend input")) {
        if (twin.dataset.name === box.dataset.name) twin.checked = box.checked;
      }
      onScreen();
    });
  }
  dark.addEventListener("change", onScreen);
  paper.addEventListener("change", (event) => (event.matches ? onPaper() : onScreen()));
  addEventListener("beforeprint", onPaper);
  addEventListener("afterprint", onScreen);
  drawAll(paper.matches).then(() => { document.documentElement.dataset.ready = "yes"; });
})();
