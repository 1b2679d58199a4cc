"""The page of the admin API in a real browser, and what its files are sent with."""

import json
import os
import re
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from otel_sessions import fingerprint
from tests.steering.conftest import TOKEN, Served
from tests.waiting import PATIENCE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
in_a_browser = [
    pytest.mark.processes,
    pytest.mark.skipif(CHROMIUM is None and "CI" not in os.environ, reason="there is no chromium on the PATH"),
]


@pytest.mark.parametrize("path", ["/", "/page/page.css", "/page/page.js"])
def test_the_files_of_the_page_need_no_token_and_load_nothing_from_another_host(path: str, served: Served) -> None:
    with urllib.request.urlopen(f"{served.url}{path}") as answer:  # noqa: S310  # loopback
        headers, content = answer.headers, answer.read().decode()

    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert re.search(r"https?:|innerHTML|localStorage|document\.cookie", content) is None
    assert " style=" not in content
    assert "<script>" not in content


def test_the_page_is_no_part_of_the_description(served: Served) -> None:
    asked = urllib.request.Request(f"{served.url}/v1/openapi.json", headers={"authorization": f"Bearer {TOKEN}"})  # noqa: S310
    with urllib.request.urlopen(asked) as answer:  # noqa: S310  # loopback
        assert not [path for path in json.load(answer)["paths"] if path == "/" or path.startswith("/page")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE * 1000)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    """The page, before the token is given."""
    with opened(browser, served) as page:
        yield page


@contextmanager
def opened(browser: Browser, served: Served) -> Iterator[Page]:
    """Open the page. An error of its script, or a breach of its policy, fails the test."""
    expect.set_options(timeout=PATIENCE * 1000)
    wrong: list[str] = []
    with browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if "Failed to load" not in said.text else None)
        page.goto(served.url)
        yield page
    assert wrong == []


def enter(page: Page, token: str = TOKEN) -> None:
    page.get_by_label("Admin token").fill(token)
    page.get_by_role("button", name="Enter").click()


def held(page: Page, path: str) -> Callable[[], Route]:
    """Hold the page's next request of this path. What is returned waits for it."""
    caught: list[Route] = []
    page.route(path, lambda route: caught.append(route), times=1)

    def caught_one() -> Route:
        while not caught:
            page.wait_for_timeout(10)
        return caught[0]

    return caught_one


def let_through(page: Page, route: Route) -> None:
    """Send what was held, and wait until the page has had the answer."""
    with page.expect_response(route.request.url) as answer:
        route.continue_()
    answer.value.finished()
    page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")


class TestInABrowser:
    pytestmark = in_a_browser

    def test_the_token_is_asked_for_once_and_kept_for_the_tab_only(self, page: Page) -> None:
        expect(page.get_by_role("status").first).to_have_text("token needed")
        enter(page)
        expect(page.locator("#active")).to_have_text("0")
        page.reload()
        expect(page.locator("#active")).to_have_text("0")
        expect(page.get_by_label("Admin token")).to_be_hidden()
        assert page.evaluate("localStorage.length") == 0
        page.get_by_role("button", name="Forget the token").click()
        expect(page.get_by_label("Admin token")).to_be_visible()
        assert page.evaluate("sessionStorage.length") == 0

    def test_a_wrong_token_is_said_to_be_wrong_and_shows_nothing(self, page: Page) -> None:
        enter(page, "wrong")
        expect(page.get_by_role("alert")).to_contain_text("The token is wrong.")
        expect(page.locator("#main")).to_be_hidden()
        enter(page, "wörter ☃")
        expect(page.get_by_role("alert")).to_contain_text("A token has visible ASCII characters")
        enter(page)
        expect(page.locator("#main")).to_be_visible()
        expect(page.get_by_role("alert")).to_be_hidden()

    def test_sessions_are_listed_and_searched_by_any_part(self, page: Page, served: Served) -> None:
        for name, client in (("a", "10.0.0.7"), ("b", "10.0.0.8"), ("c", "<img src=x onerror=alert(1)>")):
            served.create(name, client=client)
        enter(page)
        expect(page.locator("tbody tr")).to_have_count(3)
        expect(page.locator("tbody")).to_contain_text("<img src=x onerror=alert(1)>")
        page.get_by_label("Client or session").fill("0.0.8")
        page.keyboard.press("Enter")
        expect(page.locator("tbody tr")).to_have_count(1)
        page.get_by_label("Client or session").fill(fingerprint("a")[:6])
        page.keyboard.press("Enter")
        expect(page.locator("tbody")).to_contain_text("10.0.0.7")
        page.get_by_label("Client or session").fill("")
        page.get_by_label("Idle for", exact=True).fill("5x")
        page.keyboard.press("Enter")
        expect(page.locator("#said")).to_contain_text("“5x” is no time")

    def test_one_session_is_ended_by_keyboard_after_a_question(self, page: Page, served: Served) -> None:
        for name in "ab":
            served.create(name, client="ada")
        enter(page)
        end = page.get_by_role("button", name=f"End session {fingerprint('a')}")
        end.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Keep")).to_be_focused()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
        assert len(served.manager) == 2
        end.press("Enter")
        page.get_by_role("button", name="End this session").press("Enter")
        expect(page.locator("#said")).to_contain_text(f"1 session ended: {fingerprint('a')}")
        expect(page.locator("tbody tr")).to_have_count(1)
        expect(page.locator("#recent")).to_contain_text(fingerprint("a"))
        assert len(served.manager) == 1

    def test_all_sessions_of_a_client_are_ended(self, page: Page, served: Served) -> None:
        for name, client in (("a", "a&b"), ("b", "bob"), ("c", "a&b")):
            served.create(name, client=client)
        enter(page)
        page.get_by_role("button", name=f"End session {fingerprint('a')}").click()
        page.get_by_role("button", name="End all of this client").click()
        expect(page.locator("#said")).to_have_text("2 sessions ended, all of client a&b.")
        expect(page.locator("tbody tr")).to_have_count(1)

    def test_a_pass_is_previewed_and_runs_only_when_a_person_agrees(self, page: Page, served: Served) -> None:
        served.create("a")
        served.clock.skew += 60
        enter(page)
        clean_up = page.get_by_role("button", name="Clean up now")
        clean_up.click()
        expect(page.locator("#said")).to_contain_text("would end no session")
        page.get_by_label("End sessions idle for").fill("30s")
        clean_up.click()
        expect(page.get_by_role("dialog")).to_contain_text("A pass would end 1 session: 1 idle_timeout.")
        page.get_by_role("button", name="Keep").click()
        assert len(served.manager) == 1
        clean_up.click()
        page.get_by_role("button", name="End 1 session").click()
        expect(page.locator("#said")).to_contain_text("The pass ended 1 session: 1 idle_timeout.")
        expect(page.locator("#cleaned")).to_contain_text("idle_timeout1")

    def test_a_question_that_was_just_closed_does_not_answer_the_next(self, page: Page, served: Served) -> None:
        served.create("a")
        enter(page)
        end = page.get_by_role("button", name="End session")
        end.click()
        end.evaluate("button => { document.querySelector('dialog').close(); button.click(); }")
        page.get_by_role("button", name="End this session").click()
        expect(page.locator("#said")).to_contain_text("1 session ended")

    def test_a_question_waits_for_the_one_before_it(self, page: Page, served: Served) -> None:
        for name in "ab":
            served.create(name)
        served.clock.skew += 60
        enter(page)
        page.get_by_label("End sessions idle for").fill("30s")
        preview = held(page, "**/v1/cleanup?preview=true")
        page.get_by_role("button", name="Clean up now").click()
        page.get_by_role("button", name=f"End session {fingerprint('a')}").click()
        let_through(page, preview())
        expect(page.get_by_role("dialog")).to_contain_text(f"End session {fingerprint('a')}?")
        page.get_by_role("button", name="End this session").click()
        expect(page.get_by_role("dialog")).to_contain_text("A pass would end 2 sessions: 2 idle_timeout.")
        page.get_by_role("button", name="Keep").click()
        expect(page.locator("tbody tr")).to_have_count(1)
        assert len(served.manager) == 1

    def test_two_searches_at_once_list_each_session_once(self, page: Page, served: Served) -> None:
        for name in "ab":
            served.create(name)
        enter(page)
        expect(page.locator("tbody tr")).to_have_count(2)
        first = held(page, "**/v1/sessions?*")
        page.get_by_role("button", name="Search").click()
        late = first()
        page.get_by_role("button", name="Search").click()
        expect(page.locator("#found")).to_contain_text("2 sessions")
        let_through(page, late)
        expect(page.locator("tbody tr")).to_have_count(2)

    def test_an_answer_after_the_token_was_forgotten_shows_nothing(self, page: Page, served: Served) -> None:
        served.create("a")
        enter(page)
        expect(page.locator("tbody tr")).to_have_count(1)
        stats = held(page, "**/v1/stats")
        late = stats()
        page.get_by_role("button", name="Forget the token").click()
        let_through(page, late)
        page.get_by_label("Admin token").fill("typed meanwhile")
        expect(page.locator("#main")).to_be_hidden()
        expect(page.get_by_label("Admin token")).to_have_value("typed meanwhile")

    def test_the_state_is_said_in_words(self, page: Page, served: Served) -> None:
        enter(page)
        expect(page.locator("#state")).to_have_text("all is well")
        for number in range(10):
            served.create(str(number))
        expect(page.locator("#state")).to_have_text("full: new sessions are refused")
        served.portal.call(served.manager.set_max_sessions, None)
        page.reload()
        expect(page.locator("#cap")).to_contain_text("no cap")
        served.stop()
        expect(page.locator("#state")).to_have_text("takes no new sessions")

    def test_a_proxy_that_is_gone_is_said_to_be_gone_and_nothing_can_be_ended(self, page: Page, served: Served) -> None:
        served.create("a")
        enter(page)
        expect(page.locator("tbody tr")).to_have_count(1)
        served.hang_up()
        expect(page.get_by_role("alert")).to_contain_text("The proxy has not answered since")
        expect(page.locator("#state")).to_have_text("no answer")
        expect(page.get_by_role("button", name="End session")).to_be_disabled()
        expect(page.locator("#active")).to_have_text("1")

    def test_a_process_that_does_not_answer_is_named_until_it_answers(
        self, browser: Browser, served_among_others: Served
    ) -> None:
        served, fleet = served_among_others, served_among_others.fleet
        assert fleet is not None
        served.create("a", client="ada")
        with opened(browser, served) as page:
            enter(page)
            expect(page.locator("#state")).to_have_text("1 of 3 processes not reached")
            missing = "The numbers and the list lack what these processes have: w3 (it gives no sign of life)."
            expect(page.locator("#missing")).to_have_text(missing)
            expect(page.locator("tbody tr")).to_have_count(1)
            page.get_by_role("button", name="End session").click()
            page.get_by_role("button", name="End all of this client").click()
            expect(page.locator("#said")).to_contain_text("w3")
            expect(page.locator("tbody tr")).to_have_count(0)
            fleet.managers["w3"] = fleet.managers["w1"]
            fleet.silent.clear()
            expect(page.locator("#missing")).to_be_hidden()
            expect(page.locator("#state")).to_have_text("all is well")

    def test_a_process_that_starts_to_be_silent_is_named_without_a_reload(
        self, browser: Browser, served_among_others: Served
    ) -> None:
        fleet = served_among_others.fleet
        assert fleet is not None
        fleet.silent.clear()
        fleet.managers.pop("w3")
        with opened(browser, served_among_others) as page:
            enter(page)
            expect(page.locator("#state")).to_have_text("all is well")
            fleet.silent.add("w1")
            expect(page.locator("#state")).to_have_text("1 of 2 processes not reached")
            expect(page.locator("#missing")).to_contain_text("w1 (it gives no sign of life)")

    @pytest.mark.parametrize("width", [360, 1400])
    def test_nothing_is_wider_than_the_window(self, width: int, page: Page, served: Served) -> None:
        served.create("a", client="x" * 300)
        page.set_viewport_size({"width": width, "height": 800})
        enter(page)
        expect(page.locator("tbody tr")).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
