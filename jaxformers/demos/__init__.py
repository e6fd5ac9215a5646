"""What `jaxformers demo` shows: the library at work on Python's standard library, which lies on every machine."""
