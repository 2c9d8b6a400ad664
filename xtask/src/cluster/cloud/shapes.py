"""Holds requests against the AWS SDK's own model of EC2. EC2 refuses what is not in it; moto takes whatever it can read."""
import botocore.session

MODEL = botocore.session.get_session().get_service_model("ec2")
# Of every request, and of none in the model.
OF_THE_PROTOCOL = ("Action", "Version")


class Misshapen(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def check(action, parameters):
    """`parameters`: names as they are sent (`Filter.1.Name`), and their values.

    Raises Misshapen with EC2's code and words where the model says otherwise.
    """
    if action not in MODEL.operation_names:
        raise Misshapen("InvalidAction", f"The action {action} is not valid for this web service.")
    if parameters.get("Version") != MODEL.api_version:
        raise Misshapen("InvalidAction", f"The version is {parameters.get('Version')}, the model's {MODEL.api_version}")
    given = tree({name: value for name, value in parameters.items() if name not in OF_THE_PROTOCOL})
    shape = MODEL.operation_model(action).input_shape
    if shape is not None:
        hold(shape, given, "")


def tree(parameters):
    root = {}
    for name, value in parameters.items():
        *way, last = name.split(".")
        here = root
        for part in way:
            here = here.setdefault(part, {})
            if not isinstance(here, dict):
                raise Misshapen("UnknownParameter", f"The parameter {name} is not recognized")
        here[last] = value
    return root


def hold(shape, given, path):
    if shape.type_name in ("structure", "list") and not isinstance(given, dict):
        raise Misshapen("UnknownParameter", f"The parameter {path} is not recognized")
    if shape.type_name == "structure":
        structure(shape, given, path)
    elif shape.type_name == "list":
        for index, key in enumerate(sorted(given, key=lambda key: (len(key), key)), 1):
            if key != str(index):
                raise Misshapen("UnknownParameter", f"The parameter {path}.{key} is not recognized")
            hold(shape.member, given[key], f"{path}.{key}")
    else:
        scalar(shape, given, path)


def structure(shape, given, path):
    members = {wire_name(name, member): (name, member) for name, member in shape.members.items()}
    before = f"{path}." if path else ""
    for key, value in given.items():
        if key not in members:
            raise Misshapen("UnknownParameter", f"The parameter {before}{key} is not recognized")
        hold(members[key][1], value, f"{before}{key}")
    for key, (name, _) in members.items():
        if name in shape.required_members and key not in given:
            raise Misshapen("MissingParameter", f"The request must contain the parameter {before}{key}")


def wire_name(name, member):
    """As botocore's EC2Serializer names it."""
    of_model = member.serialization
    located = of_model.get("name", name)
    return of_model.get("queryName", located[:1].upper() + located[1:])


def scalar(shape, value, path):
    wrong = Misshapen("InvalidParameterValue", f"Value ({value}) for parameter {path} is invalid.")
    if isinstance(value, dict):
        raise Misshapen("UnknownParameter", f"The parameter {path} is not recognized")
    if shape.type_name in ("integer", "long"):
        if not value.lstrip("-").isdigit():
            raise wrong
        size = int(value)
    else:
        size = len(value)
    if shape.type_name == "boolean" and value not in ("true", "false"):
        raise wrong
    if getattr(shape, "enum", None) and value not in shape.enum:
        raise wrong
    if not shape.metadata.get("min", size) <= size <= shape.metadata.get("max", size):
        raise wrong
