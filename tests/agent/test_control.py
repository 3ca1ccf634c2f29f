import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ccagent import control
from ccagent.ask import NoAgentError, NoAnswerError, ask
from ccagent.places import Places


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


@pytest.fixture
async def served(places: Places) -> AsyncIterator[Places]:
    async with control.serving(places, echo):
        yield places


def echo(request: dict[str, Any]) -> dict[str, Any]:
    if "break" in request:
        raise RuntimeError("as asked")
    return {"heard": request}


async def asked(places: Places, request: dict[str, Any]) -> dict[str, Any]:
    return await asyncio.to_thread(ask, places, request)


async def raw(places: Places, data: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(places.socket))
    writer.write(data)
    writer.write_eof()
    try:
        return await reader.read()
    finally:
        writer.close()


async def test_a_question_gets_its_answer(served: Places) -> None:
    assert await asked(served, {"ask": "ü" * 1000}) == {"heard": {"ask": "ü" * 1000}}


async def test_many_ask_at_once(served: Places) -> None:
    answers = await asyncio.gather(*(asked(served, {"ask": number}) for number in range(20)))
    assert [answer["heard"]["ask"] for answer in answers] == list(range(20))


async def test_owner_and_group_may_ask_and_nobody_else(served: Places) -> None:
    assert stat.S_IMODE(served.socket.stat().st_mode) == 0o660


async def test_a_stop_leaves_no_socket(places: Places) -> None:
    async with control.serving(places, echo):
        assert places.socket.exists()
    assert list(places.state_dir.iterdir()) == []
    with pytest.raises(NoAgentError):
        ask(places, {})


async def test_a_socket_left_by_an_agent_that_died_is_replaced(places: Places) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(places.socket))
    with pytest.raises(NoAgentError):
        ask(places, {})
    async with control.serving(places, echo):
        assert await asked(places, {}) == {"heard": {}}


async def test_a_file_that_is_no_socket_is_not_replaced(places: Places) -> None:
    places.socket.write_text("somebody's")
    with pytest.raises(control.SocketTakenError, match="move it away"):
        async with control.serving(places, echo):
            pass
    assert places.socket.read_text() == "somebody's"


async def test_what_is_no_question_gets_an_error_and_the_next_one_its_answer(served: Places) -> None:
    for line in (b"[]\n", b"nonsense\n", b"[" * 10_000 + b"\n"):
        assert "error" in json.loads(await raw(served, line))
    assert await asked(served, {}) == {"heard": {}}


async def test_a_question_without_end_is_hung_up_on(served: Places) -> None:
    assert await raw(served, b"x" * (2 * control.MAX_REQUEST)) == b""
    assert await asked(served, {}) == {"heard": {}}


async def test_an_answer_that_breaks_does_not_silence_the_socket(served: Places) -> None:
    with pytest.raises(NoAnswerError, match="log says why"):
        await asked(served, {"break": 1})
    assert await asked(served, {}) == {"heard": {}}


async def test_an_agent_that_does_not_answer_is_not_waited_for_long(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ccagent.ask.PATIENCE_S", 0.2)
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(places.socket))
        hung.listen()
        with pytest.raises(NoAnswerError, match="does not answer"):
            await asked(places, {})


async def test_a_state_directory_with_a_long_path_is_served_too(tmp_path: Path) -> None:
    deep = Places(tmp_path / ("d" * 100))
    deep.state_dir.mkdir()
    async with control.serving(deep, echo):
        assert await asked(deep, {}) == {"heard": {}}
    assert not deep.socket.exists()
    deep.socket.parent.rmdir()
