// SPDX-License-Identifier: Apache-2.0
/** What was recorded before: decided again, compared; campaigns of fault sessions. */
import { useState } from 'preact/hooks'
import type { CampaignView, RecordingView, ReportView, ResultsView } from '../../../api/schemas/recordings.ts'
import { PREFIX } from '../../../api/schemas/request.ts'
import { type ApiError, call, fetchFile } from '../api.ts'
import { bytes, count, dateTime, micros } from '../format.ts'
import { useLoaded } from '../hooks.ts'
import { Opened, OpenFile } from '../recorded/compare.tsx'
import { alone, open, recording } from '../recorded/open.ts'
import { status } from '../store.ts'
import { attempt, Button, Empty, Failure, Load, Panel, Scroll, Skeleton, Tag, verdictTone } from '../ui.tsx'

/** What was asked for: lines of a report, or the sessions of a campaign. */
type Answer = ReportView | ResultsView

/** Asks for something that is shown beside the lists. */
type Read = (title: string, ask: () => Promise<Answer>) => void

export function Runs() {
  return recording.value === undefined && !alone ? <Kept /> : <Opened />
}

function Kept() {
  const [answer, setAnswer] = useState<(Answer & { readonly title: string }) | undefined>()
  const [error, setError] = useState<ApiError | undefined>()
  const [busy, setBusy] = useState(false)
  const read: Read = (title, ask) => {
    setBusy(true)
    setAnswer(undefined)
    setError(undefined)
    void ask()
      .then(found => setAnswer({ title, ...found }), setError)
      .finally(() => setBusy(false))
  }
  return (
    <div class="view split runs-view">
      <div class="stack">
        <Recordings busy={busy} read={read} />
        <Campaigns busy={busy} read={read} />
      </div>
      <Panel title={answer?.title ?? 'Report'} flush class="grow" side={answer && <Said of={answer} />}>
        {error !== undefined ? (
          <Failure error={error} />
        ) : busy ? (
          <Skeleton />
        ) : answer === undefined ? (
          <Empty title="Nothing was read yet">
            Replay lets the hypervisor decide again what was recorded; to compare, choose the first of two.
          </Empty>
        ) : 'lines' in answer ? (
          <Scroll label="Report" class="pad">
            <pre class="steps">{answer.lines.join('\n')}</pre>
          </Scroll>
        ) : (
          <Results of={answer} />
        )}
      </Panel>
    </div>
  )
}

/** What an answer comes to. */
function Said({ of }: { of: Answer }) {
  if ('lines' in of) return <Tag tone={of.same ? 'ok' : 'warn'}>{of.same ? 'no difference' : 'different'}</Tag>
  if (of.done === 0) return null
  const unexpected = of.done - of.asExpected
  return (
    <Tag tone={unexpected === 0 ? 'ok' : 'bad'}>
      {unexpected === 0 ? 'all as expected' : `${count(unexpected)} not as expected`}
    </Tag>
  )
}

function Recordings({ busy, read }: { busy: boolean; read: Read }) {
  const recordings = useLoaded(() => call('GET /recordings'), 0, [status.value?.state])
  const [base, setBase] = useState<string | undefined>()
  const row = ({ name, created, policy, kernel, bytes: size }: RecordingView) => (
    <tr key={name} class={base === name ? 'hit' : ''}>
      <td title={name}>{dateTime(created)}</td>
      <td class="policy" title={policy}>
        {policy.split('/').at(-1)}
      </td>
      <td>{kernel}</td>
      <td class="num">{bytes(size)}</td>
      <td>
        <div class="buttons">
          <Button class="small" aria-label={`Open ${name}`} onClick={() => void attempt(() => opened(name))}>
            Open
          </Button>
          <Button
            class="small"
            disabled={busy}
            aria-label={`Replay ${name}`}
            onClick={() => read(`Replay of ${name}`, () => call('POST /recordings/:name/replay', { params: { name } }))}
          >
            Replay
          </Button>
          <OfTwo
            name={name}
            base={base}
            busy={busy}
            mark={setBase}
            compare={(name, other) =>
              read(`${name} and ${other}`, () =>
                call('POST /recordings/:name/compare/:other', { params: { name, other } }),
              )
            }
          />
        </div>
      </td>
    </tr>
  )
  return (
    <Panel title="Recordings" flush class="grow" side={<OpenFile />}>
      <Load from={recordings}>
        {({ items }) =>
          items.length === 0 ? (
            <Empty title="No recording is kept">Each machine that is started here records what it does.</Empty>
          ) : (
            <Scroll label="Recordings">
              <table class="data">
                <thead>
                  <tr>
                    <th>Run</th>
                    <th>Policy</th>
                    <th>Kernel</th>
                    <th class="num">Size</th>
                    <th>Read</th>
                  </tr>
                </thead>
                <tbody>{items.map(row)}</tbody>
              </table>
            </Scroll>
          )
        }
      </Load>
    </Panel>
  )
}

function Campaigns({ busy, read }: { busy: boolean; read: Read }) {
  const campaigns = useLoaded(() => call('GET /campaigns'), 0, [])
  const [base, setBase] = useState<string | undefined>()
  const row = ({ id, started, what, planned, done, asExpected }: CampaignView) => (
    <tr key={id} class={base === String(id) ? 'hit' : ''}>
      <td class="num">{id}</td>
      <td>{dateTime(started)}</td>
      <td>{what}</td>
      <td class="num">
        {count(done)} of {count(planned)}
      </td>
      <td class={`num ${asExpected < done ? 'bad-text' : ''}`}>{count(asExpected)}</td>
      <td>
        <div class="buttons">
          <Button
            class="small"
            disabled={busy}
            aria-label={`Open campaign ${id}`}
            onClick={() => read(`Campaign ${id}`, () => call('GET /campaigns/:id', { params: { id } }))}
          >
            Open
          </Button>
          <OfTwo
            name={String(id)}
            of="campaign"
            base={base}
            busy={busy}
            mark={setBase}
            compare={(name, other) =>
              read(`Campaigns ${name} and ${other}`, () =>
                call('GET /campaigns/:id/compare/:other', { params: { id: Number(name), other: Number(other) } }),
              )
            }
          />
        </div>
      </td>
    </tr>
  )
  return (
    <Panel title="Campaigns of faults" flush>
      <Load from={campaigns}>
        {({ items }) =>
          items.length === 0 ? (
            <Empty title="No campaign is kept">smmu-cosim faults campaign runs some.</Empty>
          ) : (
            <Scroll label="Campaigns">
              <table class="data">
                <thead>
                  <tr>
                    <th class="num">#</th>
                    <th>Started</th>
                    <th>What</th>
                    <th class="num">Done</th>
                    <th class="num">As expected</th>
                    <th>Read</th>
                  </tr>
                </thead>
                <tbody>{items.map(row)}</tbody>
              </table>
            </Scroll>
          )
        }
      </Load>
    </Panel>
  )
}

/** Sessions of a campaign, what was not expected first. */
function Results({ of: { sessions } }: { of: ResultsView }) {
  if (sessions.length === 0) return <Empty title="No session is done yet" />
  return (
    <Scroll label="Sessions">
      <table class="data">
        <thead>
          <tr>
            <th>Entry</th>
            <th>Kernel</th>
            <th>Until</th>
            <th class="num">Seed</th>
            <th>Verdict</th>
            <th>Expected</th>
            <th class="num">Time</th>
          </tr>
        </thead>
        <tbody>
          {sessions
            .toSorted((a, b) => Number(a.asExpected) - Number(b.asExpected))
            .map(({ entry, kernel, until, seed, verdict, expected, asExpected, ms }) => (
              <tr key={`${entry} ${kernel} ${until} ${seed}`}>
                <td class="mono">{entry}</td>
                <td>{kernel}</td>
                <td>{until}</td>
                <td class="num">{seed}</td>
                <td>
                  <Tag tone={verdictTone(verdict)}>{verdict}</Tag>
                </td>
                <td class={asExpected ? '' : 'bad-text'}>
                  {asExpected ? 'yes' : `no: ${expected.join(' or ') || 'any but harness-error'}`}
                </td>
                <td class="num">{micros(ms * 1e3)}</td>
              </tr>
            ))}
        </tbody>
      </table>
    </Scroll>
  )
}

/** Read in this page. */
async function opened(name: string): Promise<void> {
  await open(name, await fetchFile(`${PREFIX}/recordings/${encodeURIComponent(name)}/file`))
}

/** Chooses the first of two that are compared, then the second. */
function OfTwo(props: {
  name: string
  /** What it is, where its name does not say so. */
  of?: string
  /** The first of the two. */
  base: string | undefined
  busy: boolean
  mark: (name: string | undefined) => void
  compare: (name: string, other: string) => void
}) {
  const { name, base, busy, mark } = props
  const called = props.of === undefined ? name : `${props.of} ${name}`
  if (base === undefined || base === name) {
    return (
      <Button
        class="small"
        aria-label={`Compare ${called} with another`}
        aria-pressed={base === name}
        onClick={() => mark(base === name ? undefined : name)}
      >
        Compare
      </Button>
    )
  }
  return (
    <Button
      class="small"
      disabled={busy}
      aria-label={`Compare with ${called}`}
      onClick={() => {
        props.compare(base, name)
        mark(undefined)
      }}
    >
      with this
    </Button>
  )
}
