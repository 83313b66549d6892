// MathJax 3.2.2 (Apache-2.0) is beside this file: tex-svg-full.js, from the package `mathjax`.
window.MathJax = {
  tex: {
    inlineMath: [["\\(", "\\)"]],
    displayMath: [["\\[", "\\]"]],
  },
  options: { ignoreHtmlClass: ".*|", processHtmlClass: "arithmatex" },
};
