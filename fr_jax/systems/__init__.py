"""One published method a file, each with one public function `make(...) -> System`."""
