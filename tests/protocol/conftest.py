"""Property tests run without limits on time: the machine may be busy, or each line may be counted for coverage."""

from hypothesis import HealthCheck, settings

settings.register_profile("unsandbox", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unsandbox")
