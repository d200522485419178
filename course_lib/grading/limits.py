"""What one submission may use: time, memory, processes, files and output."""

from __future__ import annotations

from dataclasses import asdict, dataclass

MiB = 2**20


@dataclass(frozen=True)
class Limits:
    """Budgets of one submission; the defaults let an honest slow notebook through on a laptop.

    Attributes:
        cell_seconds: wall clock of one cell, after which it is interrupted.
        notebook_seconds: wall clock of all cells together.
        memory_bytes: private memory of one process, and resident memory of all of them together.
        processes: processes and threads together.
        file_bytes: size of one file, and of each of the sandbox's scratch file systems.
        open_files: open files of one process.
        recorded_bytes: output of one cell that is kept for the feedback.
        output_bytes: output of the whole notebook, after which the kernel is killed.
        evidence_bytes: arrays that one probe may return.
        notebook_bytes: size of a submitted notebook.
        cells: number of cells of a submitted notebook.
    """

    cell_seconds: float = 30.0
    notebook_seconds: float = 120.0
    memory_bytes: int = 4096 * MiB
    processes: int = 256
    file_bytes: int = 256 * MiB
    open_files: int = 512
    recorded_bytes: int = 100_000
    output_bytes: int = 32 * MiB
    evidence_bytes: int = 32 * MiB
    notebook_bytes: int = 20 * MiB
    cells: int = 1000

    def __post_init__(self) -> None:
        """Refuse budgets that no submission could meet."""
        wrong = {name: value for name, value in asdict(self).items() if value <= 0}
        if wrong:
            raise ValueError(f"Every limit is positive: got {wrong}. Leave a limit out to keep its default.")
