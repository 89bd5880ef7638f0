"""Real outside servers, started by the tests on ports and folders of their own."""
