"""Ways in. A door translates its protocol into a Request and hands it to serving."""
