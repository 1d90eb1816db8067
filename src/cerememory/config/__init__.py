"""What the daemon and its commands are told: typed settings, where each came from, why a start is refused.

`settings` declares every key once; `keys` is the table read off those declarations; `values` turns text and
TOML into typed values; `sources.load` joins command line, environment, file and defaults; `checks.check`
refuses what can't be started with; `shown` prints settings for people.
"""
