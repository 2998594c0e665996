"""Files become worlds; what is wrong with them is said."""

from pathlib import Path

import duckdb
import numpy as np
import pytest

from bandit.errors import InvalidInput
from bandit.types import Figure, Price, Text
from sim import outcomes

OUTCOMES = """task_id,model,success,cost_usd,input_tokens,output_tokens,cached_tokens,latency_seconds
007,b,1,0.5,10,20,,3.5
007,a,0,,10,20,5,
8,a,0.25,0.1,,20,5,1
8,b,1,0.7,1,2,3,4
9,a,1,0.3,1,2,3,4
9,b,,0.3,1,2,3,4
10,a,1,0.4,1,2,3,4
"""
TASKS = """task_id,text,kind,size,urgent
007,"a, long
story",bug,3,true
8,,,,
11,x,y,1,false
"""
PRICES = "model,input_price,output_price,cache_read_price,note\na,1,2,,x\nz,1,2,3,y\n"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def to_parquet(csv: Path) -> Path:
    target = csv.with_suffix(".parquet")
    duckdb.read_csv(str(csv), header=True, sep=",", dtype={"task_id": "VARCHAR"}).write_parquet(str(target))
    return target


@pytest.mark.parametrize("parquet", [False, True])
def test_a_world_is_read(tmp_path: Path, parquet: bool) -> None:
    paths = [write(tmp_path, "o.csv", OUTCOMES), write(tmp_path, "t.csv", TASKS)]
    if parquet:
        paths = [to_parquet(path) for path in paths]
    world = outcomes.read(outcomes=paths[0], tasks=paths[1], prices=write(tmp_path, "p.csv", PRICES))
    assert [arm.id for arm in world.arms] == ["a", "b"]
    assert [arm.price for arm in world.arms] == [Price(input_usd=1.0, output_usd=2.0), None]
    assert [task.id for task in world.tasks] == ["007", "8"]
    assert world.tasks[0].features == {"text": Text("a, long\nstory"), "kind": "bug", "size": 3.0, "urgent": True}
    assert world.tasks[1].features == {}
    assert world.success.tolist() == [[0.0, 1.0], [0.25, 1.0]]
    # The missing cost is a's mean over the tasks that count, 9 and 10 not among them.
    assert world.cost_usd.tolist() == [[0.1, 0.5], [0.1, 0.7]]
    assert world.usage is not None
    assert world.usage[0].tolist() == [[10.0, 20.0, 5.0], [10.0, 20.0, 0.0]]
    assert np.isnan(world.usage[1, 0]).all()
    assert world.outcome(1, 0, 1).usage is None
    assert world.outcome(0, 1, 1).latency_seconds == 3.5
    assert world.outcome(0, 0, 1).latency_seconds is None


def test_types_in_csv_are_those_of_all_values(tmp_path: Path) -> None:
    text = "task_id,flag,number,word,text\n007,TRUE,1e3,12,1\n8,false,-2,nan,\n"
    world = outcomes.read(outcomes=write(tmp_path, "o.csv", OUTCOMES), tasks=write(tmp_path, "t.csv", text))
    assert world.tasks[0].features == {"flag": True, "number": 1000.0, "word": "12", "text": Text("1")}
    assert world.tasks[1].features == {"flag": False, "number": -2.0, "word": "nan"}


def test_a_path_is_not_a_pattern(tmp_path: Path) -> None:
    write(tmp_path, "o1.csv", "not this one")
    assert len(outcomes.read(outcomes=write(tmp_path, "o[1]*.csv", OUTCOMES)).tasks) == 2


def test_comments_are_rows_like_others(tmp_path: Path) -> None:
    world = outcomes.read(outcomes=write(tmp_path, "o.csv", OUTCOMES + "#1,a,1,1,,,,\n#1,b,1,1,,,,\n"))
    assert [task.id for task in world.tasks] == ["#1", "007", "8"]


def test_arms_are_chosen_and_ordered(tmp_path: Path) -> None:
    world = outcomes.read(outcomes=write(tmp_path, "o.csv", OUTCOMES), arms=["a"])
    assert [task.id for task in world.tasks] == ["007", "10", "8", "9"]
    swapped = outcomes.read(outcomes=tmp_path / "o.csv", arms=["b", "a"])
    assert swapped.success.tolist() == [[1.0, 0.0], [1.0, 0.25]]


def test_embeddings_dates_and_decimals_are_features(tmp_path: Path) -> None:
    write(tmp_path, "o.csv", OUTCOMES)
    path = tmp_path / "t.parquet"
    duckdb.sql(
        "select '007' as task_id, [1.5, 2] as vector, date '2026-01-02' as day, 1.25::decimal(9, 2) as size, "
        "null as nothing"
    ).write_parquet(str(path))
    world = outcomes.read(outcomes=tmp_path / "o.csv", tasks=path)
    assert world.tasks[0].features == {"vector": (1.5, 2.0), "day": "2026-01-02", "size": 1.25}


BAD_OUTCOMES = {
    "no rows": ("task_id,model,success,cost_usd\n", "no rows"),
    "no column": ("task_id,model,success\nx,a,1\n", "no column cost_usd"),
    "another delimiter": ("task_id;model;success;cost_usd\nx;a;1;1\n", "no column task_id"),
    "empty": ("", "no column|cannot be read"),
    "words": (OUTCOMES.replace("0.25", "good"), "success of task_id '8', model 'a': 'good' is not a number"),
    "nan": (OUTCOMES.replace("0.25", "nan"), "success of .*: nan is not a finite number from 0 to 1"),
    "above one": (OUTCOMES.replace("0.25", "1.5"), "success of .*: 1.5 is not a finite number from 0 to 1"),
    "below zero": (OUTCOMES.replace("0.25", "-1"), "success of .*: -1 is not"),
    "negative cost": (OUTCOMES.replace("0.7", "-0.7"), "cost_usd of task_id '8', model 'b': -0.7 is not"),
    "infinite cost": (OUTCOMES.replace("0.7", "inf"), "cost_usd of .*: inf is not"),
    "huge cost": (OUTCOMES.replace("0.7", "1e300"), "cost_usd of .*: 1e\\+300 is not"),
    "negative tokens": (OUTCOMES.replace("007,b,1,0.5,10", "007,b,1,0.5,-10"), "input_tokens of .*: -10 is not"),
    "negative latency": (OUTCOMES.replace("3.5", "-3.5"), "latency_seconds of .*: -3.5 is not"),
    "twice": (OUTCOMES + "8,a,1,1,,,,\n", "task_id '8', model 'a' more than once"),
    "no model": (OUTCOMES + "8,,1,1,,,,\n", "a row without model"),
    "no task": (OUTCOMES + ",a,1,1,,,,\n", "a row without task_id"),
    "no common task": (OUTCOMES + "12,c,1,1,,,,\n", "no task with a verdict from every arm of a, b, c"),
    "no cost at all": (OUTCOMES.replace("8,a,0.25,0.1", "8,a,0.25,"), "cost_usd: none is known of 'a'"),
    "a long row": (OUTCOMES + "12,c,1,1,1,1,1,1\n12,d,1,1,2,3,4,5,6,7\n", "is not CSV"),
    "a short row": (OUTCOMES.replace("9,a,1,0.3,1,2,3,4", "9,a,1"), "is not CSV"),
    "an open quote": (OUTCOMES.replace("9,a,", '"9,a,'), "is not CSV"),
    "underscores": (OUTCOMES.replace("0.7", "1_0"), "'1_0' is not a number"),
}


@pytest.mark.parametrize(("text", "why"), BAD_OUTCOMES.values(), ids=BAD_OUTCOMES)
def test_bad_outcomes_are_refused(tmp_path: Path, text: str, why: str) -> None:
    path = write(tmp_path, "o.csv", text)
    with pytest.raises(InvalidInput, match=why) as error:
        outcomes.read(outcomes=path)
    assert error.value.field == "--outcomes"
    assert str(path) in error.value.why
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"PAR1garbage", b"\x00\xff\xfe\x80" * 50, b"PAR1"])
@pytest.mark.parametrize("name", ["o.parquet", "o.csv"])
def test_rubbish_is_refused(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match="--outcomes") as error:
        outcomes.read(outcomes=path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["", "nowhere.csv", "https://example.org/o.parquet", "*.csv", "/dev/null"])
def test_only_files_are_read(tmp_path: Path, path: str) -> None:
    with pytest.raises(InvalidInput, match="--outcomes: no file"):
        outcomes.read(outcomes=tmp_path / path if path[:1] not in ("h", "/") else Path(path))


BAD_TASKS = {
    "no task_id": ("id,kind\n1,x\n", "no column task_id"),
    "twice": ("task_id,kind\n007,x\n007,y\n", "task_id '007' more than once"),
}


@pytest.mark.parametrize(("text", "why"), BAD_TASKS.values(), ids=BAD_TASKS)
def test_bad_tasks_are_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why) as error:
        outcomes.read(outcomes=write(tmp_path, "o.csv", OUTCOMES), tasks=write(tmp_path, "t.csv", text))
    assert error.value.field == "--tasks"


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ("[1.0, null] as v", "an embedding holds finite numbers only"),
        ("[]::double[] as v", "an embedding holds finite numbers only"),
        ("'inf'::double as v", "v of task_id '007': inf is not a finite number"),
        ("{'x': 1} as v", "column v cannot be used: it is a STRUCT"),
        ("[[1.0]] as v", "column v cannot be used"),
        ("'\\xAA'::blob as v", "column v cannot be used: it is a BLOB"),
    ],
)
def test_columns_that_are_no_features_are_refused(tmp_path: Path, columns: str, why: str) -> None:
    path = tmp_path / "t.parquet"
    duckdb.sql(f"select '007' as task_id, {columns}").write_parquet(str(path))
    with pytest.raises(InvalidInput, match=why):
        outcomes.read(outcomes=write(tmp_path, "o.csv", OUTCOMES), tasks=path)


def test_embeddings_have_one_length(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    duckdb.sql("select '007' as task_id, [1.0] as v union all select '8', [1.0, 2.0]").write_parquet(str(path))
    with pytest.raises(InvalidInput, match="v of task_id '8': 2 numbers, not 1"):
        outcomes.read(outcomes=write(tmp_path, "o.csv", OUTCOMES), tasks=path)


BAD_PRICES = {
    "no column": ("model,input_price\na,1\n", "no column output_price"),
    "negative": ("model,input_price,output_price\na,1,-2\n", "output_price of model 'a': -2 is not"),
    "missing": ("model,input_price,output_price\na,1,\n", "model 'a' has no input_price or no output_price"),
    "twice": ("model,input_price,output_price\na,1,2\na,1,2\n", "model 'a' more than once"),
    "words": ("model,input_price,output_price\na,1,free\n", "output_price of model 'a': 'free' is not a number"),
}


@pytest.mark.parametrize(("text", "why"), BAD_PRICES.values(), ids=BAD_PRICES)
def test_bad_prices_are_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why) as error:
        outcomes.read(outcomes=write(tmp_path, "o.csv", OUTCOMES), prices=write(tmp_path, "p.csv", text))
    assert error.value.field == "--prices"


FIGURES = "model,category,success_rate,cost_usd_mean\na,,0.5,0.2\na,bug,0.75,\nz,bug,0.1,1\n"


@pytest.mark.parametrize("parquet", [False, True])
def test_figures_are_read_for_the_arms_of_the_run(tmp_path: Path, parquet: bool) -> None:
    path = write(tmp_path, "f.csv", FIGURES)
    figures = to_parquet_as_is(path) if parquet else path
    world = outcomes.read(outcomes=write(tmp_path, "o.csv", OUTCOMES), figures=figures)
    assert set(world.arms[0].figures) == {
        Figure(success_rate=0.5, cost_usd=0.2),
        Figure(category="bug", success_rate=0.75),
    }
    assert world.arms[1].figures == ()


def to_parquet_as_is(csv: Path) -> Path:
    target = csv.with_suffix(".parquet")
    duckdb.read_csv(str(csv), header=True, sep=",").write_parquet(str(target))
    return target


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("model,success_rate\na,1.5\n", "success_rate of model 'a': 1.5 is not"),
        ("model,success_rate\na,\n", "model 'a' has no success_rate"),
        ("model,success_rate\na,0.5\na,0.6\n", "model 'a' with no category more than once"),
        ("model,success_rate,category\na,0.5,bug\na,0.6,bug\n", "model 'a' with category 'bug' more than once"),
        ("model,success_rate,cost_usd_mean\na,0.5,-1\n", "cost_usd_mean of model 'a': -1 is not"),
        ("model,category\na,bug\n", "no column success_rate"),
    ],
)
def test_figures_that_say_nothing_are_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why) as refused:
        outcomes.read(outcomes=write(tmp_path, "o.csv", OUTCOMES), figures=write(tmp_path, "f.csv", text))
    assert refused.value.field == "--figures"
