"""Operates the master's web page in a real browser, as a person would: python page.py URL USERS LATER_USERS

Prints what the page shows at each stage, one line of JSON each. Every wait ends after a minute.
"""

import json
import shutil
import sys

from selenium import webdriver
from selenium.common.exceptions import ElementClickInterceptedException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

url, users, later_users = sys.argv[1:]


def program(*names):
    found = [path for name in names if (path := shutil.which(name))]
    return found[0] if found else sys.exit(f"{names[0]} is missing; next: make need")


options = webdriver.ChromeOptions()
options.binary_location = program("chromium", "chromium-browser", "google-chrome")
for argument in ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1400,1400"]:
    options.add_argument(argument)
page = webdriver.Chrome(options, webdriver.ChromeService(program("chromedriver")))


def wait(what, condition, ignored=(Exception,)):
    return WebDriverWait(page, 60, 0.2, ignored).until(lambda _: condition(), what)


# Accordions and dialogs move for a third of a second after a click, and a click on a moving element goes to whatever is there by then.
# So: the element must have the same rectangle in four successive frames, and be what a pointer at its middle would hit.
IS_CLICKABLE = """
const [element, done] = arguments;
element.scrollIntoView({ block: 'center', behavior: 'instant' });
let before = '';
let frames_at_rest = 0;
let frames_left = 120;
function look() {
    const { x, y, width, height } = element.getBoundingClientRect();
    const now = [x, y, width, height].join();
    frames_at_rest = now === before ? frames_at_rest + 1 : 0;
    before = now;
    frames_left -= 1;
    if (frames_at_rest < 3 && frames_left > 0) {
        requestAnimationFrame(look);
    } else {
        const on_top = document.elementFromPoint(x + width / 2, y + height / 2);
        done(frames_at_rest >= 3 && !element.disabled && element.contains(on_top));
    }
}
look();
"""


def click(what, find):
    """Clicks the element that `find` returns, once it is displayed, at rest and on top. The page may replace or move it at any time."""

    def clicked():
        element = next((e for e in find() if e.is_displayed()), None)
        if element is None or not page.execute_async_script(IS_CLICKABLE, element):
            return None
        element.click()
        return element

    # Neither of these delivers a click, so trying again clicks once.
    return wait(what, clicked, [ElementClickInterceptedException, StaleElementReferenceException])


def button(text):
    lower = "translate(normalize-space(), 'ABCDEFGHIJKLMNOPQRSTUVWXYZ', 'abcdefghijklmnopqrstuvwxyz')"
    click(f"button '{text}'", lambda: page.find_elements(By.XPATH, f"//button[{lower}='{text}']"))


def fill(name, value):
    field = click(f"field '{name}'", lambda: page.find_elements(By.NAME, name))
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(value)


def figure(label):
    """The figure under a label at the top of the page."""
    lines = page.find_element(By.TAG_NAME, "body").text.split("\n")
    return lines[lines.index(label) + 1]


def table():
    rows = [[cell.text for cell in row.find_elements(By.XPATH, "./*")] for row in page.find_elements(By.CSS_SELECTOR, "table tr")]
    return [dict(zip(rows[0], row)) for row in rows[1:]]


def row(name):
    return next(row for row in table() if row["Name"] == name)


def say(**what):
    print(json.dumps(what), flush=True)


page.get(url)
fill("userCount", users)
fill("spawnRate", users)
button("advanced options")
button("custom parameters")
fill("longconnEvery", "30s")
button("start")
wait("all users", lambda: figure("Users") == users)
wait("messages of all", lambda: int(row("recv")["# Requests"]) > 3 * int(users))
say(status=figure("Status"), users=figure("Users"), failures=figure("Failures"), table=table())

button("charts")
# Blank canvases all look the same.
drawn = """return [...document.querySelectorAll('canvas')].filter(canvas => {
    const blank = document.createElement('canvas');
    [blank.width, blank.height] = [canvas.width, canvas.height];
    return canvas.toDataURL() !== blank.toDataURL();
}).length"""
say(charts=wait("charts", lambda: page.execute_script(drawn) or None))
button("workers")
say(workers=wait("workers", table))

button("edit")
fill("userCount", later_users)
fill("spawnRate", users)
button("update")
wait("fewer users", lambda: figure("Users") == later_users and later_users in table()[0].values())
button("stop")
wait("the end", lambda: figure("Status") == "STOPPED")

button("download data")
links = [a.get_attribute("href") for a in wait("links", lambda: page.find_elements(By.XPATH, "//a[contains(@href, 'stats')]"))]
fetch = "const [url, done] = arguments; fetch(url).then(answer => answer.text()).then(done)"
report = next(link for link in links if "report" in link)
csv = next(link for link in links if link.endswith("requests/csv"))
say(report=len(page.execute_async_script(fetch, report)), csv=page.execute_async_script(fetch, csv))
page.quit()
