"""
A headless Chromium, for tests of the dashboard.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from engine.sandbox import SandboxUnavailable, chromium
from tests.support.servers import do_without
from tests.support.waiting import wait_until

__all__ = ["Page", "open_page"]

ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--disable-dev-shm-usage",
)


class Page:
    """A page in a browser. Elements are named by CSS selectors."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def text(self, selector: str) -> str:
        """The visible text of the first element."""
        return str(
            self.driver.execute_script(
                "return document.querySelector(arguments[0])?.innerText ?? ''", selector
            )
        )

    def wait_text(self, selector: str, *words: str, timeout: float = 30) -> str:
        """Wait until the element shows all these words."""
        wait_until(
            lambda: all(word in self.text(selector) for word in words),
            timeout=timeout,
            what=f"{words} in {selector}, which has {self.text(selector)!r}",
        )
        return self.text(selector)

    def click(self, selector: str) -> None:
        """Click the first element."""
        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def type(self, selector: str, text: str) -> None:
        """Type into the first element."""
        self.driver.find_element(By.CSS_SELECTOR, selector).send_keys(text)

    def value(self, script: str) -> object:
        """The value of a JavaScript expression."""
        found: object = self.driver.execute_script(f"return {script}")
        return found

    def wait_value(self, script: str) -> None:
        """Wait until a JavaScript expression is true."""
        wait_until(lambda: self.value(script) is True, what=script)

    def complaints(self) -> list[str]:
        """What the console says since the last call, such as a violation of the policy; requests
        that fail because the engine is away are no complaint.
        """
        return [
            str(entry["message"])
            for entry in self.driver.get_log("browser")  # type: ignore[no-untyped-call]
            if "net::ERR_" not in entry["message"] and entry["level"] != "DEBUG"
        ]


@contextmanager
def open_page(url: str, folder: Path, *, width: int = 1200, dark: bool = False) -> Iterator[Page]:
    """Open a page in a browser whose profile is in ``folder``."""
    try:
        found = chromium()
    except SandboxUnavailable as error:
        do_without(error)
    options = ChromeOptions()
    options.binary_location = str(found.browser)
    for argument in (*ARGUMENTS, f"--window-size={width},1600", f"--user-data-dir={folder}"):
        options.add_argument(argument)
    if dark:
        options.add_argument("--blink-settings=preferredColorScheme=0")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options, Service(str(found.driver), env=found.environment))
    try:
        if width < 500:  # narrower than a window may be
            driver.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": width, "height": 844, "deviceScaleFactor": 2, "mobile": True},
            )
        driver.get(url)
        yield Page(driver)
    finally:
        driver.quit()
