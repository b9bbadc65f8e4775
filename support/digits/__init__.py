"""Any picture -> digits as MNIST has them, the answer in words, and the page to draw on."""
