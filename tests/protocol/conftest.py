"""Property tests run without a time limit per example: the machine may be busy with other things."""

from hypothesis import settings

settings.register_profile("unsandbox", deadline=None)
settings.load_profile("unsandbox")
