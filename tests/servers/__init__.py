"""Real servers for the tests: private, on free loopback ports, with data of their own."""
