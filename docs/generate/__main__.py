"""`python -m docs.generate`: brings every page up to date, and names those that changed."""

from __future__ import annotations

from docs.generate.pages import PAGES, rendered


def main() -> None:
    for page in PAGES:
        text = page.read_text()
        new = rendered(text)
        if new != text:
            page.write_text(new)
            print(page.name)


if __name__ == "__main__":
    main()
