"""Pages in tests: asked for as a browser asks, forms sent as they stand, their fields read back."""

import html
import re

import httpx

from tests.people import Person

HTML = {"Accept": "text/html"}
HOSTILE = '<i onclick="x">&"'


async def page(person: Person, path: str, status: int = 200) -> str:
    answer = await person.client.get(path, headers=HTML)
    assert answer.status_code == status, f"{path}: {answer.status_code} {answer.text}"
    assert_plain(answer.text, path)
    return answer.text


async def post(person: Person, path: str, **fields: str) -> httpx.Response:
    answer = await person.client.post(path, data=fields, headers=HTML)
    assert_plain(answer.text, path)
    return answer


async def done(person: Person, path: str, **fields: str) -> str:
    """Send a form that must succeed; return where it leads."""
    answer = await post(person, path, **fields)
    assert answer.status_code == 303, f"{path}: {answer.status_code} {answer.text}"
    return answer.headers["location"]


def assert_plain(text: str, path: str) -> None:
    """No page has a script or style in it, a handler, another host's address, or what was typed as markup.

    Its scripts are files of this server, and have no text of their own.
    """
    loads = re.sub(r"<pre.*?</pre>", "", text, flags=re.DOTALL)
    loads = re.sub(r'<script defer src="/static/[a-z./]+\?v=[0-9a-f]+"></script>', "", loads)
    assert not re.search(r"<script|<style|\sstyle=|\son[a-z]+=|(?:href|src|action)=\"https?://", loads), path
    assert "<i " not in text, path


def words(text: str) -> str:
    """Return what a page says, its tags left out and its spaces single."""
    found = re.sub(r"<[^>]+>", " ", text.partition("<main")[2])
    return " ".join(html.unescape(found).split())


def fields_of(text: str, action: str) -> dict[str, str]:
    """Return the hidden fields of the page's form that is sent to this address."""
    form = re.search(rf'<form[^>]*action="{re.escape(html.escape(action))}"[^>]*>(.*?)</form>', text, re.DOTALL)
    assert form is not None, action
    found = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form[1])
    return {name: html.unescape(value) for name, value in found}
