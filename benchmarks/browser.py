"""A headless Chromium over pages, with everything that goes wrong in them noted down."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from esans.errors import EnvironmentProblem
from tools.browser import environment, find_browser

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Page

# Containers forbid the sandbox, and give little shared memory; WebGL by software, where there is no GPU.
_FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@dataclass
class Tab:
    """A page, and what it reported through the DevTools protocol."""

    page: Page
    errors: list[str] = field(default_factory=list)
    """Uncaught exceptions, lines of console.error, and resources that could not be loaded."""

    def hear(self, message: ConsoleMessage) -> None:
        """Note an error of the console."""
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")


@contextmanager
def browser(width: int = 1400, height: int = 1000) -> Iterator[Tab]:
    """An empty tab of that many pixels. Raises EnvironmentProblem where there is no Chromium."""
    executable = find_browser()
    if executable is None:
        raise EnvironmentProblem("no Chromium is here. Run `make develop`, install one, or name it in ESANS_BROWSER.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(executable), args=_FLAGS, env=environment(os.environ))
        try:
            tab = Tab(chromium.new_page(viewport={"width": width, "height": height}))
            tab.page.set_default_timeout(60_000)
            tab.page.on("console", tab.hear)
            tab.page.on("pageerror", lambda error: tab.errors.append(f"uncaught: {error}"))
            yield tab
        finally:
            chromium.close()
