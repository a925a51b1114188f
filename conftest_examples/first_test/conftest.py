"""Nothing is needed here: pytest finds the plugin by itself once it is installed."""
