"""What some finished runs say of the claims in evaluation/claims.yaml.

python -m evaluation.claims --run RUN_JSON [RUN_JSON ...] [--output FILE.md]
python -m evaluation.claims --run RUN_JSON --page README.md    (the short table, between the page's two markers)

Only run.json and the rows that it names are read. Seeds of one experiment are put together, as in the report.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.claim_tables import claims_block, measured_text, outcome_text, short_block
from evaluation.readme import analysed, replaced
from safemerge.commands import Parser, one_line_errors
from safemerge.screening import visible

MARKERS = "<!-- claims:start -->", "<!-- claims:end -->"


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Exit 0, or 2 with one line on a user error."""
    parser = Parser(prog="python -m evaluation.claims", description=__doc__)
    parser.add_argument("--run", nargs="+", type=Path, required=True, help="run.json, or several")
    parser.add_argument("--output", type=Path, help="write the tables there, as Markdown")
    parser.add_argument(
        "--page", type=Path, help=f"write what is decided between {' and '.join(MARKERS)} of this page"
    )
    options = parser.parse_args(arguments)
    runs, groups = analysed(options.run)
    if options.page:
        old = options.page.read_text(encoding="utf-8")
        options.page.write_text(replaced(old, short_block(runs, groups), *MARKERS), encoding="utf-8")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(f"# Claims\n\n{claims_block(groups)}\n", encoding="utf-8")
    for group in groups:
        print(f"{group.title}: seeds {', '.join(map(str, group.seeds))}")
        for row in group.claims:
            print(f"  {row.id}: {visible(outcome_text(row, len(group.seeds)))}")
            if row.decided.measured:
                print(f"      {visible(measured_text(row.decided))}")
    if options.output:
        print(f"page: {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
