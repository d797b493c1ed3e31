// Typeset what pymdownx.arithmatex marks, and the titles of headings in the side bars.
window.MathJax = {
  // A command that is not known is an error, not red text.
  tex: { packages: { "[-]": ["noundefined"] }, inlineMath: [["\\(", "\\)"]], displayMath: [["\\[", "\\]"]] },
  options: { ignoreHtmlClass: ".*|", processHtmlClass: "arithmatex|md-ellipsis" },
  svg: { fontCache: "global", scale: 0.92 },
};
