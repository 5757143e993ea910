"""The 23 pitfalls of the papers' public code, each with the tests that hold us to better."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PITFALLS = {
    "1 latitude and longitude swapped": [
        "test_location_encoders.test_latitude_first_and_other_nonsense_are_refused"
    ],
    "2 degrees, radians, fractions": [
        "test_location_encoders.test_golden_vectors",
        "test_location_encoders.test_normalised_coordinates_are_not_degrees",
    ],
    "3 antimeridian": [
        "test_location_encoders.test_no_seam_at_the_antimeridian",
        "test_location_encoders.test_grid_has_the_seam_it_is_documented_with",
    ],
    "4 poles": [
        "test_location_encoders.test_a_pole_is_one_point",
        "test_location_encoders.test_the_poles_differ",
        "test_image_encoders.test_vectors_of_place_and_date_are_those_of_the_formulas_and_poles_differ",
    ],
    "5 samplers that are not uniform": ["test_sampling.test_places_on_the_sphere_are_uniform"],
    "6 encoders that change between calls": [
        "test_mae.test_encoding_draws_nothing_and_does_not_depend_on_the_batch",
        "test_crisp.test_equal_calls_give_equal_vectors_in_any_batch",
        "test_location_encoders.test_same_place_same_embedding_whatever_the_batch",
    ],
    "7 frozen modules that move": [
        "test_image_encoders.test_a_frozen_backbone_stays_in_evaluation_mode_and_never_moves",
        "test_retrieval.test_embedding_leaves_modes_buffers_and_random_numbers_alone",
    ],
    "8 a query's metadata overwritten": ["test_retrieval.test_the_metadata_of_a_query_stays_its_own"],
    "9 a gallery encoded over and over": [
        "test_retrieval.test_every_observation_is_encoded_once_and_none_is_lost"
    ],
    "10 input changed in place": ["test_location_encoders.test_input_is_left_alone"],
    "11 noise in place of a missing image": ["test_data_images.test_missing_and_damaged_pictures_raise"],
    "12 grids that include both ends": [
        "test_grid.test_round_trip_of_cell_centres",
        "test_grid.test_global_columns_cover_the_world_once",
    ],
    "13 results that depend on chunks": [
        "test_sweep.test_same_bytes_for_any_task_size",
        "test_sweep.test_same_bytes_for_any_number_of_workers",
    ],
    "14 masking by multiplication": ["test_cog.test_values_are_rounded_and_gaps_are_nodata"],
    "15 invalid COGs": ["test_cog.test_layout_is_strictly_valid", "test_cog.test_description_unit_and_tags"],
    "16 no temperature": ["test_contrast.test_temperature_is_learnt_and_bounded"],
    "17 false negatives": ["test_crisp.test_photos_of_one_tile_are_not_each_others_negatives"],
    "18 label subsets that are not nested": [
        "test_splits.test_subsets_are_nested_stratified_and_hold_every_class"
    ],
    "19 spherical harmonics that overflow": ["test_harmonics.test_addition_theorem_holds_to_degree_40"],
    "20 layers shared by repeating a list": [
        "test_location_encoders.test_every_block_has_weights_of_its_own",
        "test_mae.test_blocks_share_no_weights",
    ],
    "21 unscaled bands": [
        "test_image_encoders.test_pixels_are_normalised_once_with_statistics_that_the_weights_carry",
        "test_image_encoders.test_bytes_with_statistics_of_fractions_are_refused_but_black_images_are_not",
    ],
    "22 imagery sampled at a corner": [
        "test_imagery.test_a_ramp_of_lon_and_lat_comes_back_at_the_pixel_centres"
    ],
    "23 unsafe or nameless checkpoints": [
        "test_checkpoint.test_a_damaged_optimiser_is_refused_and_nothing_is_unpickled",
        "test_recipes.test_the_card_is_that_of_the_run",
    ],
}


def functions_of(module: str) -> set[str]:
    tree = ast.parse((HERE / f"{module}.py").read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_pitfall_is_listed():
    assert [int(name.split()[0]) for name in PITFALLS] == list(range(1, 24))


@pytest.mark.parametrize("name", PITFALLS)
def test_every_pitfall_has_its_tests(name):
    for test in PITFALLS[name]:
        module, function = test.split(".")
        assert function in functions_of(module), test
