from .strang import Strang as Strang
