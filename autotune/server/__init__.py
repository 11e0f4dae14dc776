"""A server as a workload: its spec, its process, and the bench that loads one configuration after another."""
