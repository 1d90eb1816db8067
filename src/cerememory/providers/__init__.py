"""LLM services: who embeds, describes, transcribes, summarises and finds relations, when a provider is set.

`contract` says what a provider is, `openai`, `claude` and `gemini` are the three there are, each over one
`api.Api`, which owns deadline and retries, on one `transport.HttpTransport`. `choice.opened` makes the one that
the settings name. Nothing here decides when a provider is asked, or what becomes of its answer.
"""
