"""What a folder can be; `embedkit.data.sources.registry` imports these modules when it is first read."""
