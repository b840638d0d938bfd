// A new strategy is one file and one line here.
import './baselines.ts';
import './replay.ts';
import './dark-replay.ts';
import './gradient-memory.ts';
import './consolidation.ts';
import './without-forgetting.ts';
import './synaptic-intelligence.ts';
import './packnet.ts';
import './hat.ts';
import './greedy-sampler.ts';
import './episodic-memory.ts';
import './progressive.ts';
import './fpf.ts';
import './nearest-mean.ts';
import './bias-correction.ts';
import './generative-replay.ts';
