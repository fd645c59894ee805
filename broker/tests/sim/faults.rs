//! What goes wrong on its own, and what is made wrong on purpose.

use std::collections::BTreeMap;

/// An enum, and all that is in it.
macro_rules! listed {
    ($(#[$doc:meta])* $name:ident { $($(#[$item_doc:meta])* $item:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum $name { $($(#[$item_doc])* $item,)* }

        impl $name {
            pub(crate) const ALL: &[Self] = &[$(Self::$item,)*];
        }
    };
}

listed! {
    /// Faults every run may meet. Each must fire somewhere in the gate's seeds.
    Fault {
        CrashBeforeCommit,
        CrashAfterCommit,
        CrashBeforeActivation,
        CrashAfterActivation,
        CrashAnytime,
        CommitRefusedUnknown,
        CommitDoneUnknown,
        CommitDoneLate,
        ZombieCommitLands,
        StoreDown,
        StoreSlow,
        ActivationFailed,
        AnswerFailed,
        PoisonRow,
        SocketCut,
        SocketHalfOpen,
        PeerStalls,
        CleanClose,
        CloseBehindSends,
        Departure,
        LateReturn,
        Retry,
        AckWithheld,
        AckTwice,
        ForeignAck,
        HostileFrame,
        HelloAgain,
        HelloAsAnother,
        HelloReplayed,
        KeyClaimed,
        MailToClaim,
        ClientClock,
        NodeClock,
        TwoProcesses,
        Overload,
        Question,
        Held,
        RateLimited,
        SetStatus,
        SetSummary,
        SetVisible,
        SetProfile,
        SetStats,
        JoinGroup,
        LeaveGroup,
        ListPeers,
        MessageStatus,
        ListBans,
        AuditQuery,
        AuditVerify,
        Disconnected,
        Kicked,
        KickedAll,
        KickedStale,
        Banned,
        Unbanned,
        ModerationRefused,
        CommandRepeated,
        KickedReturnsAtOnce,
        KeptOut,
        BannedReturns,
        Hook,
        HookStale,
        WorkingSwept,
        PendingUsed,
        BusyRecipient,
        GrantsChanged,
        GrantsDeny,
        Withheld,
        TopicChanged,
        TopicSend,
        TopicRefused,
        GroupSend,
        OneShot,
        OneShotBrief,
        OneShotLost,
        RemovedBeside,
        ReinstatedBeside,
        ArchivedBeside,
        RoleChangedBeside,
        EndedBeside,
        KickLifted,
        QueueFull,
        Restored,
        Purged,
        ItemLost,
        ItemRepeated,
        LaterVersion,
        ItemDelayed,
        Frozen,
        RedisBlind,
        Deaf,
        Mute,
        Unanswered,
        Gagged,
        StoreBlind,
        RedisDown,
        RedisPauses,
        RedisDrops,
        RedisForgets,
        Drain,
        WholeStop,
        NodeLost,
        Suspected,
        Shed,
        SeatForgotten,
        ToldOnReturn,
    }
}

/// How often each fired.
pub(crate) type Coverage = BTreeMap<Fault, u64>;

listed! {
    /// Mistakes that the checker must catch.
    Planted {
        /// The ack leaves before the commit has ended.
        AckBeforeCommit,
        /// The epoch is compared, but the row not locked.
        NoRowLock,
        /// The tail is read in the snapshot in which the raise began to wait.
        OneSnapshot,
        /// A key that was accepted before is accepted again.
        DedupeDropped,
        /// A restarted owner gives every lease in grace all of it again.
        GraceRestarted,
        /// A page of the queue comes from its end.
        PageUnordered,
        /// Pushes to one connection overtake each other.
        PushesSwapped,
        /// One recipient's confirmation counts for all.
        ConfirmedByAnother,
        /// The body goes with the first confirmation, not the last.
        BodyDroppedEarly,
        /// Any epoch may commit.
        FenceIgnored,
        /// A new lease is not written.
        LeaseNotSaved,
        /// What was pushed counts as confirmed.
        ConfirmedByPush,
        /// A joining peer is announced, but the departure of a gone one never.
        GraceForever,
        /// Whoever is busy is sent what others are.
        BusyDisturbed,
        /// A status that nobody ends never ends.
        WorkingForever,
        /// Whoever was kicked may come back at once.
        CooldownForgotten,
        /// What waits of a banned member, or for it, goes on waiting.
        PurgeSkipped,
        /// Whoever is removed is let in by the next owner.
        RemovedLetIn,
        /// A new owner does not read who was kicked.
        KickForgotten,
        /// Nobody is told who was removed beside the broker.
        RemovalUnheard,
        /// Queues have no bounds.
        QueueBytesIgnored,
        /// Everybody may moderate.
        EveryoneModerates,
        /// A command that was executed is executed again.
        DoneIgnored,
        /// The chain goes on behind entries that were not written, as some of them were known.
        HoleInChain,
        /// The entries of the audit are written though the rest of their commit is not.
        AuditApart,
        /// Nobody's grants are known.
        GrantsUnread,
        /// Grants are not asked again when what has waited leaves.
        GrantsNotRechecked,
        /// A command that is gone at once is announced.
        BriefAnnounced,
        /// What a connection has counted counts again after a restart.
        CountedTwice,
        /// A connection saves what it has not changed.
        SiblingsOverwritten,
        /// A command leaves the edge's window when the owner has received it.
        AckOnReceipt,
        /// Whatever comes first on a link is taken for the first of it.
        BaseFromFirst,
        /// What an edge announces wins over a hello that came later.
        LateAnnounceWins,
        /// A node that does not see Redis takes the mesh.
        BlindActivates,
        /// What was lost on a link is not said again.
        NotRepeated,
        /// Two owners tell of a departure.
        LeftToldTwice,
        /// What was meant for a process reaches the next of its name.
        OldIncarnation,
        /// What comes behind a gap is passed on to the peer.
        GapForwarded,
        /// The store says of no key that it is somebody's: any may be claimed.
        ClaimBelieved,
        /// A presence whose connection says hello as another stays in its grace.
        SecondHelloKept,
        /// Accepted hellos are not remembered beyond their owner.
        HelloForgotten,
        /// What is sealed to a claimed key is its member's when the presence ends.
        SealedInherited,
        /// Whoever is back is not told what it has missed.
        MissedUntold,
        /// Whoever was connected to a dead node is counted gone before it was.
        LossBackdated,
        /// A new owner does not wait for what edges have to say before it ends a lease.
        ExpiredUnannounced,
        /// After a promotion epochs begin where the store says, whatever was seen.
        EpochReset,
    }
}

/// Mistakes that need a scene of their own: chance brings about none of it often enough.
pub(crate) const STAGED: [Planted; 4] = [
    Planted::ExpiredUnannounced,
    Planted::EpochReset,
    Planted::OldIncarnation,
    Planted::LossBackdated,
];
