/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One variable of each shared type: its BTF is what mirror.py reads. Never loaded. */
#include "mamplus_files.h"
#include "mamplus_tables.h"
#include "mamplus_watch.h"
#include "mamplus_guard.h"

struct mamplus_head head;
struct mamplus_file file;
struct mamplus_exec exec;
struct mamplus_access access_;
struct mamplus_fork fork;
struct mamplus_exit exit_;
struct mamplus_connect connect;
struct mamplus_packet packet;
struct mamplus_dns dns;
struct mamplus_tamper tamper;
struct mamplus_hold hold;
struct mamplus_want want;
struct mamplus_wait wait;
struct mamplus_opened opened;
struct mamplus_content content;
struct mamplus_pattern pattern;
struct mamplus_file_key file_key;
struct mamplus_known known;
struct mamplus_shape shape;
struct mamplus_bucket bucket;
struct mamplus_guard_key guard_key;
struct mamplus_refused_key refused_key;
struct mamplus_refusing refusing;
struct mamplus_question question;
struct mamplus_asker asker;
struct mamplus_active active;
struct mamplus_posture posture;
struct mamplus_held held;
struct mamplus_heartbeat heartbeat;
struct mamplus_waiting waiting;
struct mamplus_answer_args answer_args;
struct mamplus_watch watch;
struct mamplus_watch_path watch_path;
struct mamplus_watch_wait watch_wait;
struct mamplus_access_args access_args;
struct mamplus_own own;
struct mamplus_object_key object_key;
struct mamplus_guard_state guard_state;
struct mamplus_guarded guarded;
struct mamplus_guard_name guard_name;
struct mamplus_sha256 sha256;
struct mamplus_writer writer;
struct mamplus_file_rules file_rules;

enum mamplus_kind kind;
enum mamplus_op op;
enum mamplus_verdict verdict;
enum mamplus_tamper_op tamper_op;
enum mamplus_object object;
enum mamplus_wait_state wait_state;
enum mamplus_refused_kind refused_kind;
enum mamplus_mode mode;
enum mamplus_answer answer;
enum mamplus_counter counter;
enum mamplus_table table;
enum mamplus_watch_how watch_how;
enum mamplus_watch_counter watch_counter;
