"""Write the NCCTG lung cancer patients (in the package lifelines) as one hospital a folder: data/<site>/participants.csv.

The institutions with at least twelve patients are hospitals of their own; the small ones are one, `others`. Nothing is
invented but the split: two of three patients train, the third tests, in the order of the table.

    python examples/lung-survival/make_data.py [OUT]
"""

from __future__ import annotations

import sys
from pathlib import Path

from lifelines.datasets import load_lung

LEAST = 12


def main(out: Path) -> None:
    """Write the tables under OUT/data."""
    table = load_lung().dropna(subset=["inst", "ph.ecog"]).reset_index(drop=True)
    counts = table["inst"].value_counts()
    table["site"] = [f"institution-{int(i):02d}" if counts[i] >= LEAST else "others" for i in table["inst"]]
    table["sex"] = table["sex"].map({1: "male", 2: "female"})
    table["days"], table["dead"] = table["time"], table["status"]
    for site, rows in table.groupby("site"):
        folder = out / "data" / str(site)
        folder.mkdir(parents=True, exist_ok=True)
        rows = rows.assign(
            participant_id=[f"{site}-{n:03d}" for n in range(len(rows))],
            split=["test" if n % 3 == 2 else "train" for n in range(len(rows))],
        )
        columns = ["participant_id", "age", "sex", "ph.ecog", "ph.karno", "wt.loss", "days", "dead", "split"]
        rows[columns].to_csv(folder / "participants.csv", index=False, na_rep="n/a")
        print(f"{site}: {len(rows)} patients, {int(rows['dead'].sum())} deaths")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
