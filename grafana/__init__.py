"""The dashboards' description; `python -m grafana.describe` writes it out as the JSON that Grafana loads."""
