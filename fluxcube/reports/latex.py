r"""Tables as LaTeX (booktabs), for papers: every cell is text in which special characters are escaped."""

from __future__ import annotations

from fluxcube.reports.section import Table

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "−": "$-$",
    "–": "--",
    "²": "$^2$",
    "µ": r"$\mu$",
    "⁻": "$^{-}$",
    "¹": "$^{1}$",
    "₂": "$_2$",
    "₄": "$_4$",
    "°": r"$^\circ$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "×": r"$\times$",
    "é": r"\'e",
    "ö": r"\"o",
}


def escape(text: str) -> str:
    r"""Return a text in which LaTeX interprets no character, and which needs no Unicode engine.

    Examples
    --------
    >>> print(escape("R² of 80 % (a_b)"))
    R$^2$ of 80 \% (a\_b)
    """
    return "".join(_SPECIAL.get(letter, letter) for letter in text).replace("$$", "")


def latex_table(table: Table) -> str:
    """Return a table as a LaTeX `table` environment, which needs the package booktabs.

    Parameters
    ----------
    table : Table
        Table of a section.
    """
    rule = "".join("r" if column.numeric else "l" for column in table.columns)
    lines = [" & ".join(escape(cell) for cell in row) + r" \\" for row in table.cells()]
    head = " & ".join(escape(column.heading) for column in table.columns) + r" \\"
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(' '.join([table.caption, table.note]).strip())}}}",
            rf"\label{{tab:{table.name}}}",
            rf"\begin{{tabular}}{{{rule}}}",
            r"\toprule",
            head,
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )
