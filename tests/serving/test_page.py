"""The page, in a real browser: every feature, on a phone in light colours and on a wide screen in dark ones.

``CHARLM_SCREENSHOTS=FOLDER pytest tests/serving/test_page.py`` keeps pictures of it.
"""

import json
import os
import shutil
from pathlib import Path
from urllib.parse import quote

import pytest
from serving_process import GOLDEN, serving

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
pytest.importorskip("selenium", reason="selenium is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
if BROWSER is None or DRIVER is None:
    pytest.skip("there is no chromium with its chromedriver", allow_module_level=True)

# After the skip, so that selenium is not needed without a browser.
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

ENDLESS = 10**9
LOOKS = [("light", 390), ("dark", 1280)]
"""Colours and widths do not depend on each other."""


@pytest.fixture(scope="module")
def page_server(trained_run, document_run, table_run):
    options = [word for run in (trained_run, document_run, table_run) for word in ("-c", run)]
    with serving(*options, "--max-tokens", ENDLESS) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Page:
    """The page of a server in the browser."""

    def __init__(self, browser, server, scheme, width):
        self.browser, self.server, self.look = browser, server, f"{scheme}-{width}"
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)

    def open(self, fragment=""):
        self.browser.get("about:blank")
        self.browser.get(f"{self.server.address}/{fragment}")
        self.until(lambda: self["#model"].get_attribute("value") and self.all("main[aria-busy=false]"))
        return self

    def __getitem__(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def until(self, condition):
        WebDriverWait(self.browser, 30, poll_frequency=0.05).until(lambda _: condition())

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def text(self, selector):
        return self[selector].get_property("textContent")

    def set(self, selector, value):
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}));"
        self.run(script, self[selector], value)

    def complete(self, selector, length):
        """Wait until a coloured text has so many characters."""
        self.until(lambda: len(self.all(f"{selector} i")) == length)

    def picture(self, name):
        if folder := os.environ.get("CHARLM_SCREENSHOTS"):
            Path(folder).mkdir(exist_ok=True)
            self.browser.save_screenshot(str(Path(folder) / f"{name}-{self.look}.png"))

    def check(self):
        """No console message, no request elsewhere, nothing beyond the screen, a name for each control."""
        messages = [each for each in self.browser.get_log("browser") if each["level"] in ("SEVERE", "WARNING")]
        assert messages == []
        events = [json.loads(each["message"])["message"] for each in self.browser.get_log("performance")]
        urls = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
        outside = {url for url in urls if not url.startswith((f"{self.server.address}/", "about:", "data:"))}
        assert outside == set()
        width = self.run("return [document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1], "something is wider than the screen"
        for control in self.all("button, input, select, textarea"):
            if control.is_displayed():
                assert control.accessible_name, control.get_attribute("outerHTML")


@pytest.fixture(params=LOOKS, ids=lambda look: f"{look[0]}-{look[1]}")
def page(request, browser, page_server):
    page = Page(browser, page_server, *request.param)
    yield page
    page.check()


def test_a_text_is_written_and_branches(page):
    page.open()
    page["#write-prompt"].send_keys("the cat ")
    page.set("#setting-max_tokens", 200)
    page["#write-prompt"].send_keys(Keys.CONTROL, Keys.ENTER)
    page.complete("#write-text", 200)
    written = page.text("#write-text .text")
    assert written.startswith("the cat ")
    assert "run=1" in page.browser.current_url
    page["#write-text .text"].send_keys(Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.all("#write-text i")[2].get_attribute("class").endswith("current")
    assert "bits" in page.text("#write-text .alternatives")
    page.picture("write")
    page["#write-text .text"].send_keys(Keys.ENTER)
    other = page.browser.switch_to.active_element
    name = page.run("return arguments[0].firstChild.textContent", other)
    expected = written[:10] + {"space": " ", "line end": "\n", "tab": "\t"}.get(name, name)
    other.click()
    page.until(lambda: page["#write-prompt"].get_property("value") == expected)
    page.complete("#write-text", 200)
    page.browser.back()
    page.until(lambda: page["#write-prompt"].get_property("value") == "the cat ")
    page.until(lambda: page.text("#write-text .text") == written)


def test_a_character_shows_its_alternatives_under_the_pointer(page):
    page.open("#mode=write&prompt=the&seed=3&run=1&length=50")
    page.complete("#write-text", 50)
    webdriver.ActionChains(page.browser).move_to_element(page.all("#write-text i")[5]).perform()
    assert page.all("#write-text i")[5].get_attribute("class").endswith("current")
    (choice,) = page.server.complete(prompt="the", seed=3, max_tokens=50, temperature=0.8, logprobs=8)
    chosen, top = choice["logprobs"]["tokens"][5], choice["logprobs"]["top_logprobs"][5]
    likeliest = [name for name in sorted(top, key=top.get, reverse=True) if name != chosen]
    buttons = page.all("#write-text .alternatives button")
    shown = [page.run("return arguments[0].firstChild.textContent", button) for button in buttons]
    assert shown == [{" ": "space", "\n": "line end", "\t": "tab"}.get(name, name) for name in likeliest]


def test_a_shared_address_shows_the_same_text(page):
    address = "#mode=write&model=salad&prompt=a%20mat%20&temperature=0.5&seed=11&length=120&run=1"
    texts = []
    for _ in range(2):
        page.open(address)
        page.complete("#write-text", 120)
        texts.append(page.text("#write-text .text"))
    (choice,) = page.server.complete(prompt="a mat ", temperature=0.5, seed=11, max_tokens=120)
    assert texts == ["a mat " + choice["text"]] * 2


def test_writing_can_be_stopped(page):
    page.open()
    page.run("arguments[0].max = arguments[1]", page["#setting-max_tokens"], ENDLESS)
    page.set("#setting-max_tokens", ENDLESS)
    page["#write-run"].click()
    page.until(lambda: len(page.all("#write-text i")) > 50)
    page["#write-stop"].click()
    page.until(lambda: not page["#write-stop"].is_enabled())
    length = len(page.all("#write-text i"))
    page.until(lambda: page.server.metric("charlm_streams") == 0)
    assert len(page.all("#write-text i")) == length


def test_sliders_explain_themselves(page):
    page.open()
    explanations = set()
    for value in ("0", "0.3", "0.8", "1", "1.2", "2"):
        page.set("#setting-temperature", value)
        explanations.add(page.text("#setting-temperature-words"))
    assert len(explanations) == 6
    page.set("#setting-top_k", "1")
    assert "likeliest" in page.text("#setting-top_k-words")
    page.picture("settings")


def test_a_text_is_read(page):
    page.open("#mode=read")
    page["#read-input"].send_keys("the cat sat on a qqq 漢")
    page["#read-run"].click()
    page.complete("#read-text", 22)
    assert "that the model does not know" in page.text("#read-summary")
    assert "l5" in page.all("#read-text i")[-1].get_attribute("class")
    for level in ("l1", "l2", "l3", "l4", "l5"):
        assert contrast(page, f".legend .{level}") >= 4.5
    assert contrast(page, "body") >= 7
    page.picture("read")


CONTRAST = """
const style = getComputedStyle(arguments[0]);
const light = (colour) => {
  const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const [a, b] = [light(style.color), light(style.backgroundColor)];
return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
"""


def contrast(page, selector):
    """Of the text and its background (WCAG 2)."""
    return page.run(CONTRAST, page[selector])


def test_a_text_is_picked_together(page):
    def offered():
        page.until(lambda: page["#pick-choices"].get_attribute("aria-busy") == "false")
        return page["#pick-prompt"].get_property("value")

    page.open("#mode=pick&prompt=the%20cat%20")
    page.until(lambda: len(page.all("#pick-choices button")) >= 5)
    page.picture("pick")
    assert offered() == "the cat "
    page.all("#pick-choices button")[1].click()
    longer = offered()
    assert longer.startswith("the cat ")
    assert len(longer) > len("the cat ")
    page.browser.switch_to.active_element.send_keys("3")
    assert len(offered()) > len(longer)
    page.browser.switch_to.active_element.send_keys(Keys.BACKSPACE)
    assert offered() == longer


def test_two_models_are_compared(page):
    page.open("#mode=compare&model=salad&other=lines&prompt=the%20&length=60")
    page["#compare-write"].click()
    page.complete("#compare-text-a", 60)
    page.until(lambda: page.all("#compare-text-b i") and not page["#compare-stop"].is_enabled())
    assert [page.text("#compare-name-a"), page.text("#compare-name-b")] == ["salad", "lines"]
    page.picture("compare")
    page["#compare-score"].click()
    page.until(lambda: "bits per character" in page.text("#compare-summary-b"))
    assert page.text("#compare-summary-a") != page.text("#compare-summary-b")


def test_a_model_with_conditions_asks_for_one(page):
    page.open("#mode=write&model=people")
    Select(page["#given"]).select_by_value("north")
    page["#write-run"].click()
    page.until(lambda: page.all("#write-text i") and not page["#write-stop"].is_enabled())
    assert "given=north" in page.browser.current_url
    assert not page["#error"].is_displayed()


def test_the_curve_of_a_run_grows_while_it_is_trained(page, trained_run):
    log = trained_run / "metrics.jsonl"
    kept = log.read_bytes()
    log.touch()  # a run whose file has changed a while ago is not in training
    try:
        page.open("#mode=training&model=salad")
        page.until(lambda: page.all("#training-curve polyline.valid"))
        assert "In training" in page.text("#training-status")
        page.until(lambda: len(page.all("#training-text i")) == 300)
        page.picture("training")
        with log.open("a") as file:
            file.write('{"kind": "valid", "step": 4321, "valid_nats_per_char": 0.5}\n{"kind": "val')
        page.until(lambda: "0.5000 nats per character at step 4321" in page.text("#training-status"))
        assert "step 4321" in page["#training-curve"].get_attribute("aria-label")
    finally:
        log.write_bytes(kept)


@pytest.fixture
def wide(browser, page_server):
    page = Page(browser, page_server, "light", 1280)
    yield page
    page.check()


def test_a_model_of_documents_writes_several(wide):
    wide.open("#mode=write&model=lines&n=5&seed=3&run=1&prompt=the")
    wide.until(lambda: not wide["#write-stop"].is_enabled())
    choices = wide.server.complete(model="lines", prompt="the", n=5, seed=3, max_tokens=400, temperature=0.8)
    shown = [wide.run("return arguments[0].textContent", box) for box in wide.all("#write-text .text")]
    ends = {"stop": " (end)", "length": ""}
    assert shown == [f"the{choice['text']}{ends[choice['finish_reason']]}" for choice in choices]
    wide.open("#mode=write&model=salad")
    assert not wide["#setting-n"].is_displayed()


def test_a_model_with_conditions_is_compared_with_one_without(wide):
    wide.open("#mode=compare&model=people&given=south&other=salad&prompt=M&length=40&action=write&seed=3&run=1")
    wide.complete("#compare-text-b", 40)
    wide.until(lambda: not wide["#compare-stop"].is_enabled())
    assert [wide.text("#compare-name-a"), wide.text("#compare-name-b")] == ["people, south", "salad"]
    assert wide.all("#compare-text-a i")
    assert not wide["#error"].is_displayed()


def test_a_click_holds_the_alternatives_until_another_click(wide):
    wide.open("#mode=write&prompt=the&seed=3&run=1&length=50")
    wide.complete("#write-text", 50)
    assert "Point at a character" in wide.text("#write-text .alternatives")
    characters = wide.all("#write-text i")
    characters[5].click()
    webdriver.ActionChains(wide.browser).move_to_element(characters[20]).perform()
    assert "current" in characters[5].get_attribute("class")
    characters[5].click()
    webdriver.ActionChains(wide.browser).move_to_element(characters[20]).perform()
    assert "current" in characters[20].get_attribute("class")


def test_the_address_is_that_of_the_text_that_is_shown(wide):
    wide.open("#mode=write&model=salad&prompt=the&seed=3&run=1&length=50")
    wide.complete("#write-text", 50)
    script = "arguments[0].dispatchEvent(new Event('change', {bubbles: true}))"
    wide.set("#setting-temperature", 1.5)
    wide.run(script, wide["#setting-temperature"])
    Select(wide["#model"]).select_by_value("people")
    wide.until(wide["#given"].is_displayed)
    address = wide.browser.current_url
    assert "model=salad&temperature=0.8&" in address
    assert "given" not in address
    wide["#write-run"].click()
    wide.until(lambda: "model=people" in wide.browser.current_url and "temperature=1.5" in wide.browser.current_url)
    wide.browser.back()
    wide.until(lambda: wide["#model"].get_attribute("value") == "salad" and len(wide.all("#write-text i")) == 50)


def test_a_text_too_long_for_an_address_comes_back_in_the_same_window(wide):
    wide.open("#mode=read&model=salad")
    wide.set("#read-input", "the cat " * 600)
    wide["#read-run"].click()
    wide.complete("#read-text", 4800)
    assert "run=" not in wide.browser.current_url
    wide["#tab-pick"].click()
    wide.browser.back()
    wide.complete("#read-text", 4800)


def test_what_is_not_there_is_told(wide):
    wide.open("#mode=write&model=nobody&prompt=the&seed=3&run=1")
    wide.until(wide["#error"].is_displayed)
    assert "no model named nobody" in wide.text("#error")
    assert wide.all("#write-text i") == []
    wide.open("#mode=compare&model=salad&other=nobody&prompt=the&action=write&seed=3&run=1")
    wide.until(lambda: "names another model" in wide.text("#error"))
    wide.open("#mode=read&model=salad")
    wide["#read-run"].click()
    wide.until(lambda: "no text yet" in wide.text("#error"))


def test_the_end_of_a_text_can_be_the_likeliest(wide):
    model = {"model": "people", "given": "north"}
    names = [choice["text"] for choice in wide.server.complete(**model, n=20, seed=1, max_tokens=200)]
    _, scored = wide.server.post("/v1/score", **model, input=names, alternatives=1)
    ends = [each["characters"][-1] for each in scored["data"]]
    ended = next(name for name, end in zip(names, ends, strict=True) if end["alternatives"][0][0] == end["text"])
    wide.open(f"#mode=pick&model=people&given=north&prompt={quote(ended)}")
    wide.until(lambda: "The text ends here" in wide.text("#pick-end"))
    assert not wide["#error"].is_displayed()
    wide.open("#mode=pick&model=salad&prompt=the%20")
    wide.until(lambda: wide.all("#pick-choices button"))
    wide.all("#pick-choices button")[0].click()
    wide.until(wide["#pick-back"].is_enabled)
    wide["#pick-back"].click()
    wide.until(lambda: wide["#pick-prompt"].get_property("value") == "the ")


def test_the_first_link_skips_to_the_text(wide):
    wide.open("#mode=pick&model=salad&prompt=the%20")
    address = wide.browser.current_url
    wide.run("document.querySelector('.skip').focus()")
    wide.browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert wide.browser.switch_to.active_element.get_attribute("id") == "pick-prompt"
    assert wide.browser.current_url == address


def test_tabs_are_reached_by_keys(page):
    page.open()
    page["#tab-write"].send_keys(Keys.ARROW_RIGHT)
    assert page["#panel-read"].is_displayed()
    assert page.browser.switch_to.active_element.get_attribute("id") == "tab-read"
    page.browser.switch_to.active_element.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert page["#panel-training"].is_displayed()
    assert "mode=training" in page.browser.current_url


def test_an_error_is_told(page):
    page.open("#mode=write&model=people")
    page.run("document.getElementById('given-label').hidden = true")
    page["#write-run"].click()
    page.until(page["#error"].is_displayed)
    assert "given" in page.text("#error")
    assert page.browser.get_log("browser")[0]["message"].count("400") == 1


def test_the_key_is_asked_for(browser):
    with serving("-c", GOLDEN / "format1-text", env={"CHARLM_API_KEY": "s3cret"}) as server:
        page = Page(browser, server, "light", 390)
        browser.get(f"{server.address}/")
        page.until(page["#key-form"].is_displayed)
        page["#key"].send_keys("s3cret", Keys.ENTER)
        page.until(lambda: page["#model"].get_attribute("value") == "format1-text")
        page["#write-run"].click()
        page.until(lambda: page.all("#write-text i"))
        assert not page["#key-form"].is_displayed()
        browser.get_log("browser")
        page.check()
