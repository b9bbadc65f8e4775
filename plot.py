"""stub"""


def draw_run(h):
    pass


def save(f, file):
    pass
