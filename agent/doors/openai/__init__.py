"""OpenAI's bodies and answers, which the HTTP and the MQTT door share."""
