"""Work comes in safely: the platforms' archives, and archives made to do harm."""

import io
import stat
import zipfile

import pytest

from course_lib.grading import collect as library
from course_lib.grading.collect import Collected, collect, person, read_names, student_id
from course_lib.grading.limits import Limits

TOPIC = "norm_penalties"
NOTEBOOK = b'{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'


def archive(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members:
            packed.writestr(name, content)
    return path


def handed_in(course):
    return {
        path.parent.parent.name: path.read_bytes() for path in (course / "submitted").glob(f"*/{TOPIC}/{TOPIC}.ipynb")
    }


def test_moodle_with_and_without_folders(tmp_path):
    packed = archive(
        tmp_path / "moodle.zip",
        [
            (f"Ada Lovelace_4711_assignsubmission_file_/{TOPIC}.ipynb", NOTEBOOK),
            (f"Zoë O'Neil_12_assignsubmission_file_{TOPIC}.ipynb", NOTEBOOK + b" "),
        ],
    )
    report = collect(tmp_path, TOPIC, [packed], "moodle")
    assert handed_in(tmp_path) == {"ada-lovelace_4711": NOTEBOOK, "zoe-o-neil_12": NOTEBOOK + b" "}
    assert report.refused == {} and len(report.students) == 2
    assert read_names(tmp_path) == {"ada-lovelace_4711": "Ada Lovelace", "zoe-o-neil_12": "Zoë O'Neil"}


def test_names_in_utf8_that_the_archive_does_not_declare(tmp_path):
    packed = archive(tmp_path / "mac.zip", [(f"Zoë Ñ_12_assignsubmission_file_/{TOPIC}.ipynb", NOTEBOOK)])
    name = "Zoë Ñ".encode()
    raw = packed.read_bytes()
    assert raw.count(name) == 2
    for start in (raw.index(b"PK\3\4") + 6, raw.index(b"PK\1\2") + 8):  # the flags of both headers
        raw = raw[:start] + b"\0\0" + raw[start + 2 :]
    packed.write_bytes(raw)
    assert collect(tmp_path, TOPIC, [packed], "moodle").refused == {}
    assert read_names(tmp_path) == {"zoe-n_12": "Zoë Ñ"}


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>", "a&lt;b", 'a" onclick="b', "\u202eevil\x1b[2J", "=1+1"]
)
def test_a_name_holds_nothing_that_a_page_or_a_terminal_obeys(name):
    assert not set(person(name)) & set('<>&;"=\x1b\u202e[]()/')


def test_canvas_takes_the_newest(tmp_path):
    packed = archive(
        tmp_path / "canvas.zip",
        [
            (f"lovelaceada_4711_99_{TOPIC}.ipynb", b"first"),
            (f"lovelaceada_4711_99_{TOPIC}-2.ipynb", b"third"),
            (f"lovelaceada_4711_99_{TOPIC}-1.ipynb", b"second"),
            (f"turingalan_LATE_12_98_{TOPIC}.ipynb", NOTEBOOK),
        ],
    )
    collect(tmp_path, TOPIC, [packed], "canvas")
    assert handed_in(tmp_path) == {"lovelaceada_4711": b"third", "turingalan_12": NOTEBOOK}


def test_plain_zip_renames_and_looks_into_a_packed_notebook(tmp_path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as packed:
        packed.writestr(f"my work/{TOPIC}.ipynb", NOTEBOOK)
    members = [("ada/Untitled1.ipynb", b"ada's"), ("alan.ipynb", b"alan's"), ("zoe/all.zip", inner.getvalue())]
    collect(tmp_path, TOPIC, [archive(tmp_path / "a.zip", members)])
    assert handed_in(tmp_path) == {"ada": b"ada's", "alan": b"alan's", "zoe": NOTEBOOK}
    assert (tmp_path / "submitted" / "ada" / TOPIC / "timestamp.txt").read_text()[:2] == "20"


def test_collecting_again_changes_nothing_and_resubmission_replaces(tmp_path):
    first = archive(tmp_path / "first.zip", [(f"ada/{TOPIC}.ipynb", b"one")])
    assert collect(tmp_path, TOPIC, [first]).unchanged == []
    assert collect(tmp_path, TOPIC, [first]).unchanged == ["ada"]
    collect(tmp_path, TOPIC, [archive(tmp_path / "second.zip", [(f"ada/{TOPIC}.ipynb", b"two")])])
    assert handed_in(tmp_path) == {"ada": b"two"}


def dated(path, day, content):
    """An archive of one member of that day in May 2026."""
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(zipfile.ZipInfo(f"ada/{TOPIC}.ipynb", (2026, 5, day, 12, 0, 0)), content)
    return path


def test_an_older_archive_takes_nothing_back(tmp_path):
    older, newer = dated(tmp_path / "s.zip", 1, b"old"), dated(tmp_path / "s (1).zip", 3, b"new")
    report = collect(tmp_path, TOPIC, [newer, older])
    assert handed_in(tmp_path) == {"ada": b"new"} and "A newer one is there" in report.refused["s.zip: ada"]
    stamp = tmp_path / "submitted" / "ada" / TOPIC / "timestamp.txt"
    assert stamp.read_text() == "2026-05-03 12:00:00"
    dateless = archive(tmp_path / "t.zip", [(f"ada/{TOPIC}.ipynb", b"anew")])
    with dateless.open("r+b") as file:
        content = file.read()
        at = content.index(b"PK\x01\x02") + 12
        file.seek(at)
        file.write(b"\0\0\0\0")
    collect(tmp_path, TOPIC, [dateless])
    assert handed_in(tmp_path) == {"ada": b"anew"} and not stamp.exists()


def test_a_run_killed_between_two_files_is_made_good(tmp_path, monkeypatch):
    first, second = dated(tmp_path / "1.zip", 1, b"one"), dated(tmp_path / "2.zip", 2, b"two")
    collect(tmp_path, TOPIC, [first])
    write, written = library.replace_file, []

    def once(path, content):
        if written:
            raise KeyboardInterrupt
        written.append(write(path, content))

    monkeypatch.setattr(library, "replace_file", once)
    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path, TOPIC, [second])
    monkeypatch.undo()
    collect(tmp_path, TOPIC, [second])
    assert handed_in(tmp_path) == {"ada": b"two"}
    assert (tmp_path / "submitted" / "ada" / TOPIC / "timestamp.txt").read_text() == "2026-05-02 12:00:00"


def test_checkpoints_are_nobodys_work(tmp_path):
    members = [(".ipynb_checkpoints/ada-checkpoint.ipynb", b"x"), ("bob/my.ipynb", b"bob's")]
    members.append(("bob/.ipynb_checkpoints/my-checkpoint.ipynb", b"older"))
    report = collect(tmp_path, TOPIC, [archive(tmp_path / "a.zip", members)])
    assert handed_in(tmp_path) == {"bob": b"bob's"} and report.refused == {}


@pytest.mark.parametrize(
    "platform, name", [("moodle", "Ada L_4711_assignsubmission_file_/x.ipynb"), ("canvas", "la_4711_9_x.ipynb")]
)
def test_a_platforms_archive_is_not_taken_for_a_plain_one(tmp_path, platform, name):
    packed = archive(tmp_path / "a.zip", [(name, NOTEBOOK)])
    assert f"--from {platform}" in collect(tmp_path, TOPIC, [packed]).refused["a.zip"]
    assert len(collect(tmp_path, TOPIC, [packed], platform).students) == 1


def test_an_archive_that_is_not_there(tmp_path):
    assert "No such file" in collect(tmp_path, TOPIC, [tmp_path / "a.zip"]).refused["a.zip"]


def link(name, target):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info, target


HOSTILE = {
    "climbs out": [(f"../../outside/{TOPIC}.ipynb", NOTEBOOK)],
    "climbs out in the middle": [(f"ada/../../{TOPIC}.ipynb", NOTEBOOK)],
    "absolute": [("/etc/cron.d/evil.ipynb", NOTEBOOK)],
    "a drive": [("C:/evil.ipynb", NOTEBOOK)],
    "backslashes": [("..\\..\\evil.ipynb", NOTEBOOK)],
    "a link": [link(f"ada/{TOPIC}.ipynb", "/etc/passwd")],
    "a bomb": [(f"ada/{TOPIC}.ipynb", b"0" * (30 * 2**20))],
    "many bombs": [(f"student{i}/{TOPIC}.ipynb", b"0" * (4 * 2**20)) for i in range(20)],
    "too many members": [(f"s{i}.txt", b"") for i in range(20_001)],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_whole_and_the_others_are_collected(tmp_path, name):
    bad = archive(tmp_path / "bad.zip", [("honest/before.ipynb", NOTEBOOK), *HOSTILE[name]])
    good = archive(tmp_path / "good.zip", [(f"alan/{TOPIC}.ipynb", NOTEBOOK)])
    before = {path for path in tmp_path.parent.rglob("*") if "submitted" not in path.parts}
    report = collect(tmp_path, TOPIC, [bad, good], limits=Limits(notebook_bytes=20 * 2**20))
    assert handed_in(tmp_path) == {"alan": NOTEBOOK}
    assert list(report.refused) == ["bad.zip"] and report.refused["bad.zip"]
    assert {path for path in tmp_path.parent.rglob("*") if "submitted" not in path.parts} == before


def test_a_broken_archive_is_refused_with_a_reason(tmp_path):
    good = archive(tmp_path / "good.zip", [("alan.ipynb", NOTEBOOK)])
    (tmp_path / "cut.zip").write_bytes(good.read_bytes()[:-30])
    (tmp_path / "empty.zip").write_bytes(b"")
    report = collect(tmp_path, TOPIC, [tmp_path / "cut.zip", tmp_path / "empty.zip", tmp_path / "none.zip", good])
    assert set(report.refused) == {"cut.zip", "empty.zip", "none.zip"} and set(report.students) == {"alan"}


def packed_in_memory(*members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        for name, content in members:
            packed.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize(
    "name, content",
    [
        ("all.zip", b"not a zip"),
        ("all.zip", packed_in_memory((f"../{TOPIC}.ipynb", NOTEBOOK))),
        (f"{TOPIC}.ipynb", bytes(range(256)) * 8),
    ],
)
def test_what_one_student_sent_keeps_nobody_else_from_being_collected(tmp_path, name, content):
    ours = (f"Ben T_2_assignsubmission_file_/{TOPIC}.ipynb", NOTEBOOK)
    packed = archive(tmp_path / "a.zip", [(f"Ada L_1_assignsubmission_file_/{name}", content), ours])
    report = collect(tmp_path, TOPIC, [packed], "moodle", Limits(notebook_bytes=2000))
    assert set(report.students) == {"ben-t_2"} and len(report.refused) == 1 and "ada" in str(report.refused).lower()


def test_a_day_that_no_calendar_has(tmp_path):
    packed = archive(tmp_path / "a.zip", [(zipfile.ZipInfo(f"ada/{TOPIC}.ipynb", (1980, 1, 0, 0, 0, 0)), NOTEBOOK)])
    assert set(collect(tmp_path, TOPIC, [packed]).students) == {"ada"}


def test_two_students_never_share_an_id(tmp_path):
    members = [(f"a-李/{TOPIC}.ipynb", b"1"), (f"a-王/{TOPIC}.ipynb", b"2"), (f"李明/{TOPIC}.ipynb", b"3")]
    report = collect(tmp_path, TOPIC, [archive(tmp_path / "a.zip", members)])
    assert handed_in(tmp_path) == {"a": b"1"}
    assert set(report.refused) == {f"a.zip: a-王/{TOPIC}.ipynb", f"a.zip: 李明/{TOPIC}.ipynb"}


def test_backslashes_as_windows_packs_them(tmp_path):
    collect(tmp_path, TOPIC, [archive(tmp_path / "a.zip", [(f"ada\\{TOPIC}.ipynb", NOTEBOOK)])])
    assert handed_in(tmp_path) == {"ada": NOTEBOOK}


def test_two_notebooks_of_other_names_are_a_question_for_that_student_only(tmp_path):
    members = [("ada/a.ipynb", b"1"), ("ada/b.ipynb", b"2"), ("alan/x.ipynb", NOTEBOOK)]
    report = collect(tmp_path, TOPIC, [archive(tmp_path / "a.zip", members)])
    assert set(report.students) == {"alan"} and "a.ipynb, b.ipynb" in report.refused["a.zip: ada"]


def test_who_handed_in_no_notebook_is_named(tmp_path):
    members = [
        ("Ada L_1_assignsubmission_file_/answers.pdf", b"%PDF"),
        ("Ben T_2_assignsubmission_file_/", b""),
        ("Cy K_3_assignsubmission_file_/", b""),
        (f"Cy K_3_assignsubmission_file_/{TOPIC}.ipynb", NOTEBOOK),
        ("Cy K_3_assignsubmission_onlinetext_/onlinetext.html", b"<p>late</p>"),
    ]
    report = collect(tmp_path, TOPIC, [archive(tmp_path / "a.zip", members)], "moodle")
    assert set(report.students) == {"cy-k_3"} and set(report.refused) == {"a.zip: ada-l_1", "a.zip: ben-t_2"}
    assert "answers.pdf" in report.refused["a.zip: ada-l_1"] and "empty folder" in report.refused["a.zip: ben-t_2"]


def test_a_numbered_copy_is_the_newer_one(tmp_path):
    members = [(f"ada/{TOPIC} (1).ipynb", b"second"), (f"ada/{TOPIC}.ipynb", b"first"), ("ada/old.ipynb", b"")]
    report = collect(tmp_path, TOPIC, [archive(tmp_path / "a.zip", members)])
    assert handed_in(tmp_path) == {"ada": b"second"} and report.refused == {}


def test_members_of_another_platform_are_named(tmp_path):
    packed = archive(tmp_path / "a.zip", [("readme.txt", b""), (f"lovelaceada_4711_99_{TOPIC}.ipynb", NOTEBOOK)])
    report = collect(tmp_path, TOPIC, [packed], "moodle")
    assert report.students == {} and len(report.refused) == 2
    with pytest.raises(ValueError, match="zip, moodle, canvas"):
        collect(tmp_path, TOPIC, [packed], "blackboard")
    assert collect(tmp_path, TOPIC, []) == Collected()


@pytest.mark.parametrize(
    "name, wanted", [("..", None), ("💥", None), ("A. B", "a.-b"), ("=cmd", "cmd"), ("a/b", "a-b")]
)
def test_ids_are_safe(name, wanted):
    if wanted is None:
        with pytest.raises(ValueError, match="letter or a digit"):
            student_id(name)
    else:
        assert student_id(name) == wanted
