"""What lies on disk -> uint8 arrays: finding, reading and writing it, and what looks wrong about it. Without torch."""

from support.data.checks import data_warnings as data_warnings
from support.data.find import DataError as DataError
from support.data.find import find_data as find_data
from support.data.images import read_images as read_images
from support.data.images import write_tar as write_tar
