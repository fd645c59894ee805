//! What every backend must do, as callable promises.
//!
//! A backend's test names a [`Backend`] and runs [`each_store_promise!`](crate::each_store_promise)
//! over it: one test per promise, each on a fresh and empty store, so that a broken promise shows
//! up by its name. The functions panic where a promise is broken. Left to the backends' own tests:
//! crashes, cut connections, and everything about speed.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a promise that is not kept panics, where it is not kept"
)]

mod accepting;
mod bounds;
mod leases;
mod ledger;
mod meshes;
mod ownership;
mod people;
mod queues;
mod retention;
mod scene;

use std::sync::Arc;

use async_trait::async_trait;
use protocol::{MemberId, MeshId};

pub use accepting::*;
pub use bounds::*;
pub use leases::*;
pub use ledger::*;
pub use meshes::*;
pub use ownership::*;
pub use people::*;
pub use queues::*;
pub use retention::*;

use super::Store;

/// A fresh store of one kind, and what the trait offers no word for.
#[async_trait]
pub trait Backend: Send + Sync {
    /// The store: migrated, empty, nobody else's.
    fn store(&self) -> Arc<dyn Store>;

    /// The same data through a handle that shares nothing else with [`Backend::store`], as a
    /// second process would have it.
    async fn another(&self) -> Arc<dyn Store>;

    /// Sets a member's `revoked_at`.
    async fn revoke(&self, member: &MemberId);

    /// Sets a mesh's `archived_at`.
    async fn archive(&self, mesh: &MeshId);

    /// Runs one statement on the tables. In it, `{mesh}` and `{broker}` stand for what comes before
    /// the name of a table that is the reference's or ours, `{now}`, `{yesterday}`, `{seven_days_ago}` and
    /// `{nine_days_ago}` for times as columns hold them, `{ms}` for the store's clock in milliseconds since the Unix epoch, as
    /// text.
    async fn run(&self, statement: &str);

    /// The same, for the texts that a query answers.
    async fn texts(&self, query: &str) -> Vec<String>;
}

/// Hands the name of every promise to another macro: `each_store_promise!(my_macro)` becomes
/// `my_macro! { a_promise, another, … }`.
#[macro_export]
macro_rules! each_store_promise {
    ($with:ident) => {
        $with! {
            a_new_mesh_is_listed_with_its_members,
            a_living_slug_is_refused_and_nothing_written,
            an_archived_mesh_is_not_listed_and_frees_its_slug,
            an_unknown_mesh_has_no_identity,
            an_identity_carries_what_a_hello_needs,
            a_key_is_identified_by_its_unrevoked_row,
            the_first_member_to_prove_a_session_key_keeps_it,
            a_session_key_of_a_deleted_member_is_nobodys,
            the_owners_key_is_taken,
            an_invite_is_recorded_once_and_for_a_known_mesh,
            every_activation_raises_the_epoch,
            an_activation_raises_the_epoch_above_the_floor,
            an_activation_raises_the_epoch_by_a_bounded_step,
            an_unknown_mesh_cannot_be_activated,
            a_new_owner_starts_from_what_was_written,
            activations_at_once_all_get_epochs_of_their_own,
            a_wrong_epoch_writes_nothing_while_other_meshes_commit,
            a_mesh_never_activated_is_fenced,
            a_claim_excludes_a_second_until_it_is_dropped,
            migrating_again_and_at_once_changes_nothing,
            a_working_store_is_healthy,
            an_envelope_comes_back_as_it_was_accepted,
            a_retry_is_answered_with_the_original_and_writes_nothing,
            a_key_given_twice_in_one_commit_is_bad_data,
            keys_of_clients_and_of_the_link_do_not_collide,
            the_same_key_of_another_member_or_mesh_is_another_key,
            what_a_key_was_accepted_as_can_be_asked,
            a_known_key_writes_nothing_of_its_mesh,
            all_known_keys_are_told,
            bad_data_writes_nothing_of_the_batch,
            later_units_of_a_commit_see_the_earlier_ones,
            a_batch_of_many_meshes_and_rows_is_written_whole,
            a_page_is_in_order_and_keeps_to_its_rows,
            a_page_keeps_to_its_bytes_but_for_the_first_row,
            lanes_are_queues_of_their_own,
            a_confirmation_removes_its_own_delivery_only,
            a_confirmation_of_another_message_removes_nothing,
            a_body_is_kept_until_the_last_recipient_confirmed,
            an_envelope_to_nobody_is_delivered_at_once,
            what_a_presence_leaves_its_member_inherits_once,
            what_was_inherited_is_confirmed_by_the_member,
            a_message_is_found_by_the_beginning_of_its_id,
            the_depth_of_all_queues_is_known,
            a_lease_is_kept_as_saved_until_dropped,
            a_grace_grows_with_the_beats_of_the_owner_alone,
            an_owner_that_never_beat_spends_no_grace,
            saving_an_absence_again_does_not_start_it_again,
            coming_back_ends_an_absence,
            time_without_an_owner_never_counts_as_grace,
            an_owner_that_dies_before_its_first_beat_gives_no_grace_back,
            old_envelopes_go_with_their_keys_and_deliveries,
            a_shared_envelope_goes_with_all_its_deliveries,
            the_tail_does_not_fall_when_envelopes_go,
            much_that_is_old_goes_in_one_call,
            a_state_keeps_what_is_not_changed_and_adds_what_is_counted,
            grants_are_read_of_members_that_restrict,
            a_topic_is_found_by_its_id_or_its_name,
            a_topics_history_grows_with_what_is_accepted,
            moderation_finds_whom_it_is_about,
            a_removed_member_is_a_ban_until_it_is_let_in_again,
            what_waits_of_and_for_a_removed_member_is_taken_back,
            an_executed_command_is_remembered_for_a_day,
            joining_is_checked_in_order,
            joins_at_once_take_turns,
            a_key_that_is_anothers_makes_no_member,
            an_owner_is_known_by_user_or_by_key,
            the_audit_chain_is_read_in_its_order,
            a_reader_sees_its_own_messages_only,
            hooks_find_presences_by_session_or_process,
            a_status_waits_for_its_presence,
            memberships_tell_who_was_removed_and_who_moderates,
            a_kicked_key_stays_out_until_its_time_is_over,
            no_more_kicks_are_kept_than_a_mesh_remembers,
            bytes_that_wait_are_known,
            session_keys_are_forgotten_when_nobody_proves_them,
            a_proof_is_noted_every_few_hours,
        }
    };
}

#[cfg(test)]
mod tests {
    macro_rules! names {
        ($($name:ident),* $(,)?) => { [$(stringify!($name)),*] };
    }

    #[test]
    fn no_promise_is_left_off_the_list() {
        let listed = each_store_promise!(names);
        let files = [
            include_str!("contract/accepting.rs"),
            include_str!("contract/bounds.rs"),
            include_str!("contract/leases.rs"),
            include_str!("contract/ledger.rs"),
            include_str!("contract/meshes.rs"),
            include_str!("contract/ownership.rs"),
            include_str!("contract/people.rs"),
            include_str!("contract/queues.rs"),
            include_str!("contract/retention.rs"),
        ];
        let written = files
            .iter()
            .flat_map(|file| file.lines())
            .filter_map(|line| line.strip_prefix("pub async fn ")?.split('(').next());
        for name in written {
            assert!(listed.contains(&name), "{name} is not in each_store_promise!");
        }
    }
}
