// SPDX-License-Identifier: Apache-2.0
/** Recordings of runs that have ended, and of the one that goes on; replayed and compared by name. */
import { Type } from 'typebox'
import { FILE_NAME, type View } from './fields.ts'
import type { Routes } from './route.ts'

const Name = Type.String({ pattern: FILE_NAME, description: 'of GET /recordings' })

const RecordingSchema = Type.Object({
  name: Type.String(),
  created: Type.String(),
  policy: Type.String(),
  kernel: Type.String(),
  bytes: Type.Integer({ description: 'of its first file; a long recording has more' }),
})
export type RecordingView = View<typeof RecordingSchema>

const ReportSchema = Type.Object({
  same: Type.Boolean({ description: 'no difference' }),
  lines: Type.Array(Type.String(), { description: 'what `smmu-cosim` prints, from its beginning' }),
})
/** What a replay or a comparison came to. */
export type ReportView = View<typeof ReportSchema>

const CampaignSchema = Type.Object({
  id: Type.Integer(),
  started: Type.String(),
  finished: Type.Union([Type.String(), Type.Null()]),
  what: Type.String(),
  planned: Type.Integer(),
  done: Type.Integer(),
  asExpected: Type.Integer(),
})
export type CampaignView = View<typeof CampaignSchema>

const Campaign = Type.Integer({ minimum: 1, description: 'of GET /campaigns' })

const ResultSchema = Type.Object({
  entry: Type.String({ description: 'of the catalogue, or a file of rules' }),
  kernel: Type.String(),
  until: Type.String({ description: 'prefix of the series' }),
  seed: Type.Integer(),
  verdict: Type.String(),
  expected: Type.Array(Type.String(), { description: 'verdicts that are; none: any but harness-error' }),
  asExpected: Type.Boolean(),
  ms: Type.Number({ description: 'of the session, start and end of the machine included' }),
})

const ResultsSchema = Type.Object({
  ...CampaignSchema.properties,
  sessions: Type.Array(ResultSchema, { description: 'those that are done, in the order of the plan' }),
})
export type ResultsView = View<typeof ResultsSchema>

export const recordings = {
  'GET /recordings': {
    id: 'listRecordings',
    tag: 'recordings',
    summary: 'Recordings in the folder of runs, the newest first: 200 at most',
    answer: Type.Object({ items: Type.Array(RecordingSchema) }),
  },
  'GET /recordings/:name/file': {
    id: 'downloadRecording',
    tag: 'recordings',
    summary: 'A recording as one file',
    description: 'Of a long one the beginning, at most 256 MiB.',
    params: Type.Object({ name: Name }),
    file: { type: 'application/octet-stream', name: 'trace.smtr', description: 'the trace file' },
    problems: [404, 409],
  },
  'POST /recordings/:name/replay': {
    id: 'replayRecording',
    tag: 'recordings',
    summary: 'Let the hypervisor decide again what was recorded',
    description: 'As `smmu-cosim replay`, in a process of its own, one at a time.',
    params: Type.Object({ name: Name }),
    answer: ReportSchema,
    problems: [404, 409, 422],
  },
  'POST /recordings/:name/compare/:other': {
    id: 'compareRecordings',
    tag: 'recordings',
    summary: 'What the second run did differently',
    description: 'As `smmu-cosim trace diff`, in a process of its own, one at a time.',
    params: Type.Object({ name: Name, other: Name }),
    answer: ReportSchema,
    problems: [404, 409, 422],
  },
  'GET /campaigns': {
    id: 'listCampaigns',
    tag: 'recordings',
    summary: 'Campaigns of fault sessions, the newest first: 200 at most',
    answer: Type.Object({ items: Type.Array(CampaignSchema) }),
    problems: [422],
  },
  'GET /campaigns/:id': {
    id: 'getCampaign',
    tag: 'recordings',
    summary: 'What came of the sessions of a campaign',
    params: Type.Object({ id: Campaign }),
    answer: ResultsSchema,
    problems: [404, 422],
  },
  'GET /campaigns/:id/compare/:other': {
    id: 'compareCampaigns',
    tag: 'recordings',
    summary: 'What has changed with the second campaign',
    description:
      'As `smmu-cosim faults compare`: what became worse first, told by more than chance from what comes and goes with the seed.',
    params: Type.Object({ id: Campaign, other: Campaign }),
    answer: ReportSchema,
    problems: [404, 422],
  },
} as const satisfies Routes
