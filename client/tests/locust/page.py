"""Does with the master's page what a person does, in a real browser: python page.py URL USERS LATER

Prints what the page shows as it goes, a line of JSON each time. A person waits until something is there, at most a minute.
"""

import json
import shutil
import sys

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

url, users, later = sys.argv[1:]


def program(*names):
    found = [path for name in names if (path := shutil.which(name))]
    return found[0] if found else sys.exit(f"{names[0]} is missing; next: make need")


options = webdriver.ChromeOptions()
options.binary_location = program("chromium", "chromium-browser", "google-chrome")
for argument in ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1400,1400"]:
    options.add_argument(argument)
page = webdriver.Chrome(options, webdriver.ChromeService(program("chromedriver")))


def wait(what, is_so):
    return WebDriverWait(page, 60, 0.2, [Exception]).until(lambda _: is_so(), what)


def button(text):
    lower = "translate(normalize-space(), 'ABCDEFGHIJKLMNOPQRSTUVWXYZ', 'abcdefghijklmnopqrstuvwxyz')"
    path = f"//button[{lower}='{text}']"
    found = wait(text, lambda: next(b for b in page.find_elements(By.XPATH, path) if b.is_displayed()))
    page.execute_script("arguments[0].scrollIntoView()", found)
    found.click()


def fill(name, value):
    field = wait(name, lambda: next(f for f in page.find_elements(By.NAME, name) if f.is_displayed()))
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(value)


def shown(label):
    """The figure under a word at the top of the page."""
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
wait("all users", lambda: shown("Users") == users)
wait("messages of all", lambda: int(row("recv")["# Requests"]) > 3 * int(users))
say(status=shown("Status"), users=shown("Users"), failures=shown("Failures"), table=table())

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
fill("userCount", later)
fill("spawnRate", users)
button("update")
wait("fewer users", lambda: shown("Users") == later)
button("stop")
wait("the end", lambda: shown("Status") == "STOPPED")

button("download data")
links = [a.get_attribute("href") for a in wait("links", lambda: page.find_elements(By.XPATH, "//a[contains(@href, 'stats')]"))]
fetch = "const [url, done] = arguments; fetch(url).then(answer => answer.text()).then(done)"
report = next(link for link in links if "report" in link)
csv = next(link for link in links if link.endswith("requests/csv"))
say(report=len(page.execute_async_script(fetch, report)), csv=page.execute_async_script(fetch, csv))
page.quit()
