"""An evaluation's rows as files: JSON, a table in markdown, and a drawing of quality and time against k."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from kgt.atomic import write_atomically
from kgt.errors import UserError
from pipelines.json_report import check_report, write_report
from training import tables
from training.evaluation import Row


def check(name: str) -> list[Path]:
    """The files of `report=`: FILE.json or FILE.md; both for a name with neither ending; none for an empty one.

    Raises UserError if they cannot be written.
    """
    if not name:
        return []
    files = [Path(name)] if name.endswith((".json", ".md")) else [Path(f"{name}.json"), Path(f"{name}.md")]
    for file in files:
        check_report(file)
    return files


def write(files: Sequence[Path], rows: Sequence[Row]) -> list[Path]:
    """Write the files, and beside them `<name>-k.png` where there are rows of several k; all that were written.

    Raises UserError if the place refuses.
    """
    files = list(files)
    if files and len({row.k for row in rows}) > 1:
        files.append(files[0].with_name(f"{files[0].stem}-k.png"))
    for file in files:
        try:
            match file.suffix:
                case ".json":
                    write_report(file, [row.record() for row in rows])
                case ".md":
                    picture = f"\n![PSNR and time against k]({files[-1].name})\n" if files[-1].suffix == ".png" else ""
                    write_atomically(file, (tables.markdown(rows) + picture).encode())
                case _:
                    _draw(file, rows)
        except OSError as error:
            raise UserError(f"cannot write report {file}: {error.strerror or error}") from error
    return files


def _draw(path: Path, rows: Sequence[Row]) -> None:
    """A line a task, set and setting: PSNR less that at the largest k, and seconds an image, both against k."""
    from matplotlib.figure import Figure

    lines: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.k or 0):
        lines[f"{row.task} {row.set} {row.setting}"].append(row)
    figure = Figure(figsize=(10, 4), layout="constrained")
    quality, cost = figure.subplots(1, 2)
    for title, points in lines.items():
        ks = [row.k for row in points]
        quality.plot(ks, [row.psnr - points[-1].psnr for row in points], marker="o", label=title)
        cost.plot(ks, [row.seconds for row in points], marker="o")
    quality.set_ylabel("PSNR less that at the largest k, dB")
    cost.set(ylabel="s an image", ylim=(0, None))
    for axes in (quality, cost):
        axes.set(xlabel="k, neighbours a node of 1024", xscale="log", xticks=sorted({row.k for row in rows}))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.legend(*quality.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    figure.savefig(path, dpi=120)
