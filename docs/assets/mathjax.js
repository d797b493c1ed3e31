// Typeset what pymdownx.arithmatex marks, and the titles of headings in the side bars.
window.MathJax = {
  tex: { inlineMath: [["\\(", "\\)"]], displayMath: [["\\[", "\\]"]] },
  options: { ignoreHtmlClass: ".*|", processHtmlClass: "arithmatex|md-ellipsis" },
  svg: { fontCache: "global", scale: 0.92 },
};
